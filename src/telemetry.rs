//! What operators see of a running service: logs, metrics and traces.
//!
//! [`log`] writes lines to standard error. [`Telemetry`] sets the process's meter and tracer, from which the store and
//! `grpc::observed` take theirs when they are made; [`instruments`] shows what the service counts by itself. Metrics are
//! always there for `/metrics` of the ops port, unless `OTEL_SDK_DISABLED` says otherwise; by OTLP they and traces go out
//! only if the standard variables (`OTEL_EXPORTER_OTLP_ENDPOINT` and its like, see [`settings`]) name an endpoint.
//!
//! What tells one key, merchant or address from another is no label of a metric, and no SQL is in a span.

pub mod instruments;
pub mod log;
mod log_queue;
pub mod settings;

use std::{fs, sync::Arc, time::Duration};

use opentelemetry::{KeyValue, global};
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::{
    Resource, error::OTelSdkError, metrics::SdkMeterProvider, propagation::TraceContextPropagator,
    trace::SdkTracerProvider,
};
use prometheus::{Registry, TextEncoder};
use tonic::transport::{Certificate, ClientTlsConfig};

use self::settings::TelemetrySettings;

/// How long the end waits for what has not been sent yet, for metrics and for traces each.
const END: Duration = Duration::from_secs(5);

/// The process's meter and tracer.
pub struct Telemetry {
    registry: Registry,
    meters: SdkMeterProvider,
    tracers: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Sets the process's meter, its tracer if traces are wanted, and the propagation of W3C contexts. `instance` names
    /// this process among its like. To be called on the runtime, before anything takes an instrument.
    ///
    /// # Errors
    /// What the operator has to put right.
    pub fn begin(settings: &TelemetrySettings, instance: &str) -> Result<Self, String> {
        let mut resource =
            Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        if !settings.names_service {
            resource = resource.with_service_name("claviger");
        }
        if !settings.names_instance {
            resource = resource.with_attribute(KeyValue::new("service.instance.id", instance.to_owned()));
        }
        let resource = resource.build();

        let registry = Registry::new();
        let for_prometheus = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            // One program, one scope: the label would be the same on every line.
            .scope_info_enabled(false)
            .build()
            .map_err(|error| error.to_string())?;
        let mut meters = SdkMeterProvider::builder().with_resource(resource.clone()).with_reader(for_prometheus);
        if let Some(endpoint) = &settings.metrics {
            let mut exporter = MetricExporter::builder().with_tonic().with_endpoint(endpoint);
            if let Some(tls) = tls(settings, endpoint)? {
                exporter = exporter.with_tls_config(tls);
            }
            meters = meters.with_periodic_exporter(exporter.build().map_err(|error| error.to_string())?);
        }
        let meters = meters.build();
        if !settings.disabled {
            global::set_meter_provider(meters.clone());
            log::observe();
        }

        global::set_text_map_propagator(TraceContextPropagator::new());
        let tracers = match &settings.traces {
            None => None,
            Some(endpoint) => {
                let mut exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint);
                if let Some(tls) = tls(settings, endpoint)? {
                    exporter = exporter.with_tls_config(tls);
                }
                let exporter = exporter.build().map_err(|error| error.to_string())?;
                let tracers = SdkTracerProvider::builder()
                    .with_resource(resource)
                    .with_sampler(settings.sampler.clone())
                    .with_batch_exporter(exporter)
                    .build();
                global::set_tracer_provider(tracers.clone());
                Some(tracers)
            }
        };
        Ok(Self { registry, meters, tracers })
    }

    /// All metrics as they are now, in the text format of Prometheus.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn exposition(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// Whether traces are wanted.
    pub fn traces(&self) -> bool {
        self.tracers.is_some()
    }

    /// Sends what has not been sent yet, and ends. To be called when no call is left to be told of.
    pub async fn end(self: Arc<Self>) {
        // The exporters' connections need the runtime while this waits for them.
        let ended = tokio::task::spawn_blocking(move || {
            let traces = self.tracers.as_ref().map_or(Ok(()), |tracers| tracers.shutdown_with_timeout(END));
            let metrics = self.meters.shutdown_with_timeout(END);
            for (what, outcome) in [("traces", traces), ("metrics", metrics)] {
                if let Err(error) = outcome
                    && !matches!(error, OTelSdkError::AlreadyShutdown)
                {
                    tracing::warn!(what, %error, "the last telemetry could not be sent");
                }
            }
        });
        if let Err(error) = ended.await {
            tracing::warn!(%error, "telemetry ended badly");
        }
    }
}

/// The roots of the settings for an endpoint that speaks TLS; without them the exporter takes those of the system.
fn tls(settings: &TelemetrySettings, endpoint: &str) -> Result<Option<ClientTlsConfig>, String> {
    let Some(path) = settings.certificate.as_ref().filter(|_| endpoint.starts_with("https://")) else {
        return Ok(None);
    };
    let pem = fs::read(path)
        .map_err(|error| format!("OTEL_EXPORTER_OTLP_CERTIFICATE: {} cannot be read: {error}", path.display()))?;
    Ok(Some(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))))
}
