//! The standard variables of OpenTelemetry, read and checked, as its specification has them: an empty one counts as not
//! set. Those that are not named here (headers, time-outs, intervals, the limits of batches) are read by the SDK itself;
//! what concerns neither traces nor metrics is let be, since these variables are often set for many programs at once.

use std::{collections::BTreeMap, path::PathBuf};

use opentelemetry_sdk::trace::Sampler;
use tonic::transport::Uri;

use crate::domain::text::quoted;

/// Where telemetry goes, and how much of it.
#[derive(Clone, Debug)]
pub struct TelemetrySettings {
    /// Whether nothing at all is measured, not even for `/metrics`.
    pub disabled: bool,
    /// Where traces go; none: nowhere.
    pub traces: Option<String>,
    /// Where metrics go, beside `/metrics`; none: nowhere else.
    pub metrics: Option<String>,
    /// Which traces are recorded.
    pub sampler: Sampler,
    /// The roots that an endpoint's certificate is judged by.
    pub certificate: Option<PathBuf>,
    /// Whether the environment names the service itself.
    pub names_service: bool,
    /// Whether the environment names this instance of it itself.
    pub names_instance: bool,
}

/// Numbers that the SDK reads; it would take its default for one that is none.
const NUMBERS: [&str; 9] = [
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    "OTEL_METRIC_EXPORT_INTERVAL",
    "OTEL_METRIC_EXPORT_TIMEOUT",
    "OTEL_BSP_EXPORT_TIMEOUT",
];

/// A variable that is wrong, and what is.
pub type Wrong = (&'static str, String);

/// Reads the variables out of the `environment`, and says all that are wrong.
pub fn read(environment: &BTreeMap<String, String>) -> (TelemetrySettings, Vec<Wrong>) {
    let mut reader = Reader { environment, wrong: Vec::new() };
    let disabled = reader.read("OTEL_SDK_DISABLED", |text| match text.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("is none of true and false".to_owned()),
    });
    for name in NUMBERS {
        reader.read(name, |text| match text.parse::<u64>() {
            Ok(number) if number > 0 => Ok(()),
            _ => Err(format!("{} is no whole number above zero", quoted(text))),
        });
    }
    for name in
        ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL"]
    {
        reader.read(name, |text| match text {
            "grpc" => Ok(()),
            _ => Err(format!("{} is not spoken; only grpc is (port 4317 of a collector)", quoted(text))),
        });
    }
    for name in [
        "OTEL_EXPORTER_OTLP_COMPRESSION",
        "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
        "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION",
    ] {
        reader.read(name, |text| match text {
            "none" => Ok(()),
            _ => Err(format!("{} is not supported; leave it out", quoted(text))),
        });
    }
    reader.read("OTEL_PROPAGATORS", |text| {
        let unknown = text.split(',').map(str::trim).find(|name| !["tracecontext", "baggage", "none"].contains(name));
        match unknown {
            None => Ok(()),
            Some(name) => Err(format!("{} is not understood; contexts are W3C's, tracecontext", quoted(name))),
        }
    });
    let everywhere = reader.read("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
    let traces = reader.read("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint).or(everywhere.clone());
    let metrics = reader.read("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", endpoint).or(everywhere);
    let traces_wanted = reader.read("OTEL_TRACES_EXPORTER", exporter).unwrap_or(true);
    let metrics_wanted = reader.read("OTEL_METRICS_EXPORTER", exporter).unwrap_or(true);
    let sampler = reader.sampler();
    let certificate = reader.read("OTEL_EXPORTER_OTLP_CERTIFICATE", |text| Ok(PathBuf::from(text)));
    let names_instance = reader.attributes().contains(&"service.instance.id");
    let names_service = reader.value("OTEL_SERVICE_NAME").is_some() || reader.attributes().contains(&"service.name");
    let disabled = disabled.unwrap_or(false);
    let settings = TelemetrySettings {
        disabled,
        traces: traces.filter(|_| traces_wanted && !disabled),
        metrics: metrics.filter(|_| metrics_wanted && !disabled),
        sampler,
        certificate,
        names_service,
        names_instance,
    };
    (settings, reader.wrong)
}

struct Reader<'a> {
    environment: &'a BTreeMap<String, String>,
    wrong: Vec<Wrong>,
}

impl<'a> Reader<'a> {
    fn value(&self, name: &str) -> Option<&'a str> {
        self.environment.get(name).map(|text| text.trim()).filter(|text| !text.is_empty())
    }

    fn read<T>(&mut self, name: &'static str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        match parse(self.value(name)?) {
            Ok(value) => Some(value),
            Err(what) => {
                self.wrong.push((name, what));
                None
            }
        }
    }

    /// The names of the attributes that the environment gives the service.
    fn attributes(&self) -> Vec<&'a str> {
        let list = self.value("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
        list.split(',').filter_map(|pair| Some(pair.split_once('=')?.0.trim())).collect()
    }

    fn sampler(&mut self) -> Sampler {
        let ratio = self.read("OTEL_TRACES_SAMPLER_ARG", |text| match text.parse::<f64>() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
            _ => Err(format!("{} is no share of traces; write a number from 0 to 1, such as 0.01", quoted(text))),
        });
        let by_ratio = || Sampler::TraceIdRatioBased(ratio.unwrap_or(1.0));
        let below = |root| Sampler::ParentBased(Box::new(root));
        let sampler = self.read("OTEL_TRACES_SAMPLER", |text| match text {
            "always_on" => Ok(Sampler::AlwaysOn),
            "always_off" => Ok(Sampler::AlwaysOff),
            "traceidratio" => Ok(by_ratio()),
            "parentbased_always_on" => Ok(below(Sampler::AlwaysOn)),
            "parentbased_always_off" => Ok(below(Sampler::AlwaysOff)),
            "parentbased_traceidratio" => Ok(below(by_ratio())),
            _ => Err(format!(
                "{} is no sampler; use parentbased_traceidratio (with OTEL_TRACES_SAMPLER_ARG), parentbased_always_on, \
                 parentbased_always_off, traceidratio, always_on or always_off",
                quoted(text)
            )),
        });
        sampler.unwrap_or_else(|| below(Sampler::AlwaysOn))
    }
}

fn endpoint(text: &str) -> Result<String, String> {
    let right = "write one such as http://collector:4317";
    let uri: Uri = text.parse().map_err(|_| format!("{} is no URL; {right}", quoted(text)))?;
    match uri.scheme_str() {
        Some("http" | "https") => Ok(text.to_owned()),
        _ => Err(format!("{} does not begin with http:// or https://; {right}", quoted(text))),
    }
}

fn exporter(text: &str) -> Result<bool, String> {
    match text {
        "otlp" => Ok(true),
        "none" => Ok(false),
        _ => Err(format!("{} is no exporter here; use otlp or none", quoted(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The settings, which have to be right.
    fn right(pairs: &[(&str, &str)]) -> TelemetrySettings {
        let (settings, wrong) = read(&environment(pairs));
        assert_eq!(wrong, []);
        settings
    }

    fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn nothing_goes_out_until_an_endpoint_is_set() {
        let settings = right(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]);
        assert_eq!((settings.traces, settings.metrics), (None, None));
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");
        let settings = right(&[endpoint, ("OTEL_METRICS_EXPORTER", "none")]);
        assert_eq!((settings.traces.as_deref(), settings.metrics), (Some("http://collector:4317"), None));
        let settings = right(&[endpoint, ("OTEL_SDK_DISABLED", "TRUE")]);
        assert_eq!((settings.traces, settings.metrics), (None, None));
    }

    #[test]
    fn a_signal_s_own_endpoint_wins() {
        let settings = right(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4317"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://b:4317"),
        ]);
        assert_eq!(
            (settings.traces.as_deref(), settings.metrics.as_deref()),
            (Some("https://b:4317"), Some("http://a:4317"))
        );
    }

    #[test]
    fn the_sampler_follows_the_caller_unless_told_otherwise() {
        let sampler = |pairs: &[(&str, &str)]| format!("{:?}", right(pairs).sampler);
        assert_eq!(sampler(&[]), "ParentBased(AlwaysOn)");
        assert_eq!(
            sampler(&[("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0.01")]),
            "ParentBased(TraceIdRatioBased(0.01))"
        );
    }

    #[test]
    fn the_environment_may_name_the_service_itself() {
        let settings = right(&[("OTEL_RESOURCE_ATTRIBUTES", "service.name=keys, service.instance.id=7")]);
        assert!(settings.names_service && settings.names_instance);
        assert!(right(&[("OTEL_SERVICE_NAME", "keys")]).names_service);
    }

    #[test]
    fn all_that_is_wrong_is_told() {
        let (_, wrong) = read(&environment(&[
            ("OTEL_SDK_DISABLED", "yes"),
            ("OTEL_BSP_SCHEDULE_DELAY", "5s"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_PROPAGATORS", "tracecontext,b3"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_TRACES_SAMPLER_ARG", "1%"),
            ("OTEL_TRACES_SAMPLER", "sometimes"),
        ]));
        let told: Vec<String> = wrong.into_iter().map(|(name, what)| format!("{name} {what}")).collect();
        insta::assert_snapshot!(told.join("\n"), @"
        OTEL_SDK_DISABLED is none of true and false
        OTEL_BSP_SCHEDULE_DELAY `5s` is no whole number above zero
        OTEL_EXPORTER_OTLP_PROTOCOL `http/protobuf` is not spoken; only grpc is (port 4317 of a collector)
        OTEL_EXPORTER_OTLP_COMPRESSION `gzip` is not supported; leave it out
        OTEL_PROPAGATORS `b3` is not understood; contexts are W3C's, tracecontext
        OTEL_EXPORTER_OTLP_ENDPOINT `collector:4317` does not begin with http:// or https://; write one such as http://collector:4317
        OTEL_TRACES_EXPORTER `zipkin` is no exporter here; use otlp or none
        OTEL_TRACES_SAMPLER_ARG `1%` is no share of traces; write a number from 0 to 1, such as 0.01
        OTEL_TRACES_SAMPLER `sometimes` is no sampler; use parentbased_traceidratio (with OTEL_TRACES_SAMPLER_ARG), parentbased_always_on, parentbased_always_off, traceidratio, always_on or always_off
        ");
    }
}
