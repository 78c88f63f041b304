//! The table of keys.

use std::fmt::Write as _;

use prost_types::Timestamp;

use super::{escaped, rfc3339};
use crate::grpc::proto::{ApiKey, State, WebhookFormat};

const COLUMNS: [&str; 9] =
    ["API KEY", "ID", "MERCHANT", "IP ADDRESSES", "WEBHOOK", "STATE", "CREATED", "LAST USED", "EXPIRES"];

/// The most characters of the addresses of one key, the count of the rest not included.
const ADDRESSES_WIDTH: usize = 40;

/// `keys` below their column heads, a line each, with its line end.
pub(crate) fn table(keys: &[ApiKey]) -> String {
    let mut rows = vec![COLUMNS.map(str::to_owned)];
    rows.extend(keys.iter().map(|key| row(key).map(|cell| escaped(&cell).into_owned())));
    let mut widths = [0; COLUMNS.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut out = String::new();
    for row in &rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            // Writing to a String does not fail.
            let _ = write!(line, "{cell:width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn row(key: &ApiKey) -> [String; COLUMNS.len()] {
    [
        key.masked_key.clone(),
        key.id.clone(),
        key.merchant_username.clone(),
        addresses(key),
        match WebhookFormat::try_from(key.webhook_format) {
            Ok(WebhookFormat::SingleJson) => "single JSON".to_owned(),
            Ok(WebhookFormat::MultipleJson) => "multiple JSON".to_owned(),
            Ok(WebhookFormat::Unspecified) | Err(_) => format!("({})", key.webhook_format),
        },
        match State::try_from(key.state) {
            Ok(state) => state.as_str_name().trim_start_matches("STATE_").to_owned(),
            Err(_) => format!("({})", key.state),
        },
        key.create_time.as_ref().map_or_else(String::new, seconds),
        key.last_used_time.as_ref().map_or_else(|| "never".to_owned(), seconds),
        key.expire_time.as_ref().map_or_else(|| "never".to_owned(), seconds),
    ]
}

/// The rules on one line: allowed blocks, then denied ones behind `!`, then how many had no room.
fn addresses(key: &ApiKey) -> String {
    let denied = key.denied_ips.iter().map(|block| format!("!{block}"));
    let mut rules = key.allowed_ips.iter().cloned().chain(denied);
    let Some(mut out) = rules.next() else { return "any".to_owned() };
    while let Some(rule) = rules.next() {
        if out.chars().count() + rule.chars().count() + 2 > ADDRESSES_WIDTH {
            return format!("{out}, +{}", rules.count() + 1);
        }
        out.push_str(", ");
        out.push_str(&rule);
    }
    out
}

/// `moment` without its fraction, which nobody reads in a table.
fn seconds(moment: &Timestamp) -> String {
    rfc3339(&Timestamp { seconds: moment.seconds, nanos: 0 })
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;
    use crate::cli::fake_server::an_api_key;

    fn with_rules(allowed: &[&str], denied: &[&str]) -> ApiKey {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        ApiKey { allowed_ips: texts(allowed), denied_ips: texts(denied), ..an_api_key() }
    }

    #[test]
    fn keys_are_a_table() {
        let keys = [
            an_api_key(),
            ApiKey {
                merchant_username: "globex-international".to_owned(),
                webhook_format: WebhookFormat::MultipleJson.into(),
                state: State::NotYetValid.into(),
                expire_time: Some("2027-01-01T00:00:00.999Z".parse().unwrap()),
                ..with_rules(&["203.0.113.7", "198.51.100.0/24", "2001:db8::/32", "192.0.2.1"], &["198.51.100.13"])
            },
            ApiKey {
                webhook_format: 9,
                state: 77,
                merchant_username: "a\u{1b}[31m".to_owned(),
                ..with_rules(&[], &["10.0.0.1"])
            },
        ];
        assert_snapshot!(table(&keys), @r"
        API KEY                     ID                          MERCHANT              IP ADDRESSES                      WEBHOOK        STATE          CREATED               LAST USED  EXPIRES
        clv_7n42DGM5Tflk9n8mt7Fhc7  key_0000000000000000000001  acme                  203.0.113.7, 198.51.100.0/24      single JSON    ACTIVE         2026-11-23T19:25:00Z  never      never
        clv_7n42DGM5Tflk9n8mt7Fhc7  key_0000000000000000000001  globex-international  203.0.113.7, 198.51.100.0/24, +3  multiple JSON  NOT_YET_VALID  2026-11-23T19:25:00Z  never      2027-01-01T00:00:00Z
        clv_7n42DGM5Tflk9n8mt7Fhc7  key_0000000000000000000001  a\u{1b}[31m           !10.0.0.1                         (9)            (77)           2026-11-23T19:25:00Z  never      never
        ");
    }

    #[test]
    fn no_keys_are_a_table_without_lines() {
        assert_snapshot!(table(&[]), @"API KEY  ID  MERCHANT  IP ADDRESSES  WEBHOOK  STATE  CREATED  LAST USED  EXPIRES");
    }

    #[test]
    fn many_addresses_are_counted() {
        assert_eq!(addresses(&with_rules(&[], &[])), "any");
        assert_eq!(addresses(&with_rules(&["10.0.0.0/8"], &["10.0.0.1"])), "10.0.0.0/8, !10.0.0.1");
        let long = "2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff/128";
        assert_eq!(addresses(&with_rules(&[long, long, "10.0.0.1"], &["10.0.0.2"])), format!("{long}, +3"));
    }
}
