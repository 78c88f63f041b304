//! List: pages by keyset, filters, tokens, and what a page never holds.

use std::{collections::BTreeSet, time::Duration};

use claviger::{
    domain::scope,
    grpc::proto::{self, State},
};
use prost::Message;
use tonic::Status;

use crate::{
    calls::{delete, refusal, rotate, update},
    harness::{Client, Engine, Service, after_beginning, key_of, violations},
};

const STATES: [State; 5] = [State::Active, State::Disabled, State::NotYetValid, State::Expired, State::Deleted];

async fn list(mut client: Client, request: proto::ListRequest) -> Result<proto::ListResponse, Status> {
    Ok(client.list(request).await?.into_inner())
}

/// All pages of a query.
async fn pages(service: &Service, request: proto::ListRequest) -> Vec<proto::ListResponse> {
    let mut pages = vec![list(service.admin(), request.clone()).await.unwrap()];
    loop {
        let page_token = pages.last().unwrap().next_page_token.clone();
        if page_token.is_empty() {
            return pages;
        }
        pages.push(list(service.admin(), proto::ListRequest { page_token, ..request.clone() }).await.unwrap());
    }
}

fn ids<'a>(pages: impl IntoIterator<Item = &'a proto::ListResponse>) -> Vec<String> {
    pages.into_iter().flat_map(|page| page.api_keys.iter().map(|key| key.id.clone())).collect()
}

fn of_acme(page_size: i32) -> proto::ListRequest {
    proto::ListRequest { merchant_username: "acme".into(), page_size, ..Default::default() }
}

on_every_engine! {
    async fn case_37_what_is_alive_throughout_is_seen_exactly_once(service: Service) {
        let mut alive = vec![];
        let mut doomed = vec![];
        for number in 0..30 {
            // Three are made in each moment, so that pages end between keys of the same age.
            if number % 3 == 0 {
                service.clock.advance(Duration::from_micros(1));
            }
            let id = service.make_for("acme", &[]).await.id;
            if number % 5 == 4 { doomed.push(id) } else { alive.push(id) }
        }
        let mut seen = vec![];
        let mut token = String::new();
        loop {
            let page = list(service.admin(), proto::ListRequest { page_token: token, ..of_acme(4) }).await.unwrap();
            assert!(page.api_keys.len() <= 4);
            seen.extend(page.api_keys.iter().map(|key| (key.create_time.unwrap(), key.id.clone())));
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
            // The world goes on: one appears, one goes, one changes, the clock is set back and on again.
            service.make_for("acme", &[]).await;
            service.clock.advance(Duration::from_micros(1));
            service.make_for("acme", &[]).await;
            if let Some(id) = doomed.pop() {
                delete(service.admin(), &id).await.unwrap();
            }
            let renamed = proto::ApiKey { display_name: format!("after {}", seen.len()), ..Default::default() };
            update(service.admin(), &alive[0], &["display_name"], renamed).await.unwrap();
        }
        let order: Vec<_> = seen.iter().map(|(time, id)| ((time.seconds, time.nanos), id)).collect();
        assert!(order.windows(2).all(|pair| pair[0].0 >= pair[1].0), "newest first");
        let seen: Vec<String> = seen.into_iter().map(|(_, id)| id).collect();
        assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), seen.len(), "nothing is seen twice");
        assert!(alive.iter().all(|id| seen.contains(id)), "nothing is missed");
    }
}

on_every_engine! {
    async fn the_page_after_a_deleted_key_goes_on_where_it_stood(service: Service) {
        for _ in 0..6 {
            service.clock.advance(Duration::from_secs(1));
            service.make_for("acme", &[]).await;
        }
        let all = ids(&pages(&service, of_acme(0)).await);
        let first = list(service.admin(), of_acme(3)).await.unwrap();
        delete(service.admin(), &all[2]).await.unwrap();
        let page_token = first.next_page_token;
        let second = list(service.admin(), proto::ListRequest { page_token, ..of_acme(3) }).await.unwrap();
        assert_eq!(ids([&second]), all[3..]);
        assert_eq!(second.next_page_token, "");
    }
}

on_every_engine! {
    async fn a_filter_by_state_agrees_with_the_state_of_each_key(service: Service) {
        let at = |seconds| Some(after_beginning(Duration::from_secs(seconds)));
        // Every combination of what makes a state; what lies in the past by then is made before the clock goes on.
        for combination in 0..16 {
            let key = proto::ApiKey {
                disabled: combination & 1 != 0,
                not_before_time: (combination & 2 != 0).then(|| at(1_000).unwrap()),
                expire_time: (combination & 4 != 0).then(|| at(2_000).unwrap()),
                display_name: combination.to_string(),
                ..key_of("acme", &[])
            };
            let made = service.make(key).await;
            if combination & 8 != 0 {
                delete(service.admin(), &made.id).await.unwrap();
            }
        }
        for seconds in [0, 999, 1_000, 1_999, 2_000] {
            service.clock.set(claviger::domain::Time::from_micros(crate::harness::BEGINNING));
            service.clock.advance(Duration::from_secs(seconds));
            let everything = proto::ListRequest { show_deleted: true, ..of_acme(0) };
            let all = list(service.admin(), everything.clone()).await.unwrap().api_keys;
            assert_eq!(all.len(), 16);
            for chosen in 0..32_usize {
                let states: Vec<State> = (0..5).filter(|bit| chosen & 1 << bit != 0).map(|bit| STATES[bit]).collect();
                let request = proto::ListRequest {
                    states: states.iter().map(|state| i32::from(*state)).collect(),
                    ..everything.clone()
                };
                let shown = list(service.admin(), request).await.unwrap().api_keys;
                let expected: Vec<_> =
                    all.iter().filter(|key| states.is_empty() || states.contains(&key.state())).cloned().collect();
                assert_eq!(shown, expected, "{states:?} after {seconds} s");
            }
            let live = list(service.admin(), of_acme(0)).await.unwrap().api_keys;
            assert!(live.len() == 8 && live.iter().all(|key| key.state() != State::Deleted));
        }
        let states = vec![State::Deleted.into(), 0, 77];
        insta::assert_snapshot!(violations(&list(service.admin(), proto::ListRequest { states, ..of_acme(0) }).await.unwrap_err()), @"
        states[0]: asks for deleted keys, which need show_deleted
        states[1]: 0 is no state; use STATE_ACTIVE or another of the STATE values
        states[2]: 77 is no state; use STATE_ACTIVE or another of the STATE values
        ");
    }
}

on_every_engine! {
    async fn case_37_the_size_of_a_page_is_50_or_as_asked_up_to_1000(service: Service) {
        for _ in 0..52 {
            service.make_for("acme", &[]).await;
        }
        let size = async |page_size| {
            let page = list(service.admin(), of_acme(page_size)).await.unwrap();
            (page.api_keys.len(), !page.next_page_token.is_empty())
        };
        assert_eq!(size(0).await, (50, true));
        assert_eq!(size(1).await, (1, true));
        assert_eq!(size(51).await, (51, true));
        assert_eq!(size(52).await, (52, false));
        assert_eq!(size(i32::MAX).await, (52, false));
        for below in [-1, i32::MIN] {
            insta::assert_snapshot!(refusal(list(service.admin(), of_acme(below)).await), @"InvalidArgument FIELDS_INVALID: page_size is below 0; use 0 for 50, or 1 to 1000");
        }
        // Copies by hand are quicker than a thousand calls.
        let columns = "merchant_username, display_name, credential_id, prefix, retiring_credential_id, \
                       retiring_expire_time, allowed_ips, denied_ips, scopes, labels, full_administrator, \
                       webhook_format, disabled, create_time, update_time, not_before_time, expire_time, rotate_time, \
                       delete_time, purge_time, delete_reason, version";
        for number in 0..20_u8 {
            let id = match service.app.store().engine() {
                claviger::store::Engine::Sqlite => format!("CAST(substr(id, 1, 12) || x'ffffff{number:02x}' AS BLOB)"),
                claviger::store::Engine::Postgres => {
                    format!("substr(id, 1, 12) || decode('ffffff{number:02x}', 'hex')")
                }
            };
            let from = "FROM api_key WHERE merchant_username = 'acme' AND display_name = ''";
            let columns_of_copy = columns.replace("display_name", "'copy'");
            let copy = format!("INSERT INTO api_key (id, {columns}) SELECT {id}, {columns_of_copy} {from}");
            assert_eq!(service.execute(&copy).await, 52);
        }
        assert_eq!(size(i32::MAX).await, (1_000, true));
        assert_eq!(size(1_000).await, (1_000, true));
        let pages = pages(&service, of_acme(1_001)).await;
        assert_eq!(pages.iter().map(|page| page.api_keys.len()).collect::<Vec<_>>(), [1_000, 52 * 21 - 1_000]);
    }
}

on_every_engine! {
    async fn case_37_a_token_belongs_to_its_query_and_its_caller(service: Service) {
        let reader = service.make_for("acme", &[scope::KEYS_READ]).await.key;
        let sibling = service.make_for("acme", &[scope::KEYS_READ]).await;
        let query = || proto::ListRequest { states: vec![1, 2], ..of_acme(1) };
        let first = list(service.client(&reader), query()).await.unwrap();
        let page_token = first.next_page_token.clone();
        let next = || proto::ListRequest { page_token: page_token.clone(), ..query() };
        assert_eq!(list(service.client(&reader), next()).await.unwrap().api_keys.len(), 1);
        // The size of a page and the order and repetition of states are no part of the query.
        let resized = proto::ListRequest { page_size: 7, states: vec![2, 1, 2], ..next() };
        assert_eq!(list(service.client(&reader), resized).await.unwrap().api_keys.len(), 1);

        let others = [
            proto::ListRequest { merchant_username: String::new(), ..next() },
            proto::ListRequest { states: vec![1], ..next() },
            proto::ListRequest { states: vec![], ..next() },
            proto::ListRequest { show_deleted: true, ..next() },
        ];
        for other in others {
            insta::assert_snapshot!(refusal(list(service.client(&reader), other).await), @"InvalidArgument FIELDS_INVALID: page_token does not belong to this query and caller; repeat the query that it was given for, or leave it empty to begin anew");
        }
        for caller in [&sibling.key, &service.admin] {
            assert!(list(service.client(caller), next()).await.is_err());
        }
        for position in 0..page_token.len() {
            let mut tampered = page_token.clone().into_bytes();
            tampered[position] = if tampered[position] == b'1' { b'2' } else { b'1' };
            let page_token = String::from_utf8(tampered).unwrap();
            let outcome = list(service.client(&reader), proto::ListRequest { page_token, ..next() }).await;
            assert!(outcome.is_err(), "byte {position}");
        }
        let half = &page_token[..page_token.len() / 2];
        let upper = page_token.to_ascii_uppercase();
        assert_ne!(upper, page_token);
        let longer = format!("{page_token}00");
        let signed = page_token.replacen('0', "+", 4);
        for page_token in ["0", "00", "é", "+", " ", "key_0000000000000000000000", half, &longer, &upper, &signed] {
            let request = proto::ListRequest { page_token: page_token.to_owned(), ..next() };
            assert!(list(service.client(&reader), request).await.is_err(), "{page_token}");
        }
        let leaking = proto::ListRequest { page_token: service.admin.clone(), ..next() };
        insta::assert_snapshot!(refusal(list(service.client(&reader), leaking).await), @"InvalidArgument FIELDS_INVALID: page_token holds a key string, which belongs into no field but `key`; treat that key as leaked");
    }
}

on_every_engine! {
    async fn a_caller_lists_the_keys_within_its_reach(service: Service) {
        let reader = service.make_for("acme", &[scope::KEYS_READ]).await;
        service.make_for("other", &[]).await;
        let shown = list(service.client(&reader.key), proto::ListRequest::default()).await.unwrap();
        assert_eq!(ids([&shown]), [reader.id]);
        let shown = list(service.admin(), proto::ListRequest::default()).await.unwrap();
        assert_eq!(shown.api_keys.len(), 3);
    }
}

on_every_engine! {
    async fn a_page_ends_before_it_reaches_3_mib(service: Service) {
        let block = |group: &str, number: usize| format!("2001:db8:{group}:fedc:ba98:7654:3210:{number:x}");
        let heavy = proto::ApiKey {
            display_name: "w".repeat(63),
            allowed_ips: (0x1000..0x1064).map(|number| block("aaaa", number)).collect(),
            denied_ips: (0x1000..0x1064).map(|number| block("bbbb", number)).collect(),
            labels: (10..26).map(|n| (format!("{n}{}", "k".repeat(61)), "v".repeat(63))).collect(),
            scopes: (10..74).map(|number| format!("{number}{}", "s".repeat(62))).collect(),
            ..key_of("acme", &[])
        };
        let size = service.make(heavy.clone()).await.api_key.encoded_len();
        let enough = 3 * 1024 * 1024 / size + 20;
        for _ in 1..enough {
            service.make(heavy.clone()).await;
        }
        let pages = pages(&service, of_acme(1_000)).await;
        assert_eq!(pages.len(), 2);
        assert!(pages[0].encoded_len() < 3 * 1024 * 1024);
        assert!(pages[0].encoded_len() + 2 * size > 3 * 1024 * 1024, "a page is as full as it can be");
        let ids = ids(&pages);
        assert_eq!((ids.len(), ids.iter().collect::<BTreeSet<_>>().len()), (enough, enough));
    }
}

on_every_engine! {
    async fn case_37_no_list_shows_a_hash_or_a_secret(service: Service) {
        let one = service.make_for("acme", &[]).await;
        let two = service.make_for("acme", &[]).await;
        let rotated = rotate(service.admin(), &two.id, 60).await.unwrap();
        delete(service.admin(), &one.id).await.unwrap();
        let request = proto::ListRequest { show_deleted: true, ..Default::default() };
        let shown = list(service.admin(), request).await.unwrap();
        assert_eq!(shown.api_keys.len(), 3);
        let bytes = shown.encode_to_vec();
        let holds = |needle: &str| bytes.windows(needle.len()).any(|window| window == needle.as_bytes());
        assert!(!holds("$argon2") && !holds("argon2"));
        for key in [&one.key, &two.key, &rotated.key, &service.admin] {
            // Prefix, credential id, then k, the secret, the tag and the checksum.
            let (public, secret) = key.rsplit_once('_').unwrap();
            assert!(!holds(&secret[..12]) && !holds(&secret[32..]));
            assert_eq!(holds(public), key != &two.key, "the public part of the current secret alone is shown");
        }
    }
}
