//! Promises of the address rules.

use std::fmt::Write;

use ipnet::{Ipv4Net, Ipv6Net};
use proptest::prelude::*;

use super::*;

fn rules(allowed: &[&str], denied: &[&str]) -> IpRules {
    let blocks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    IpRules { allowed: blocks(allowed), denied: blocks(denied) }
}

fn judge(rules: &IpRules, ip: &str) -> IpVerdict {
    rules.judge(Some(ip.parse().unwrap()))
}

#[test]
fn case_11_a_mapped_caller_is_judged_as_its_v4_address() {
    let rules = rules(&["10.0.0.0/8"], &["10.1.0.0/16"]);
    for ip in ["10.2.3.4", "::ffff:10.2.3.4", "::ffff:0a02:0304"] {
        assert_eq!(judge(&rules, ip), IpVerdict::Permitted, "{ip}");
    }
    for ip in ["10.1.3.4", "::ffff:10.1.3.4", "::10.2.3.4", "64:ff9b::10.2.3.4", "2002:0a02:0304::1"] {
        assert_eq!(judge(&rules, ip), IpVerdict::NotAllowed, "{ip}");
    }
    assert_eq!("::FFFF:10.2.3.4".parse::<CallerIp>().unwrap().to_string(), "10.2.3.4");
}

#[test]
fn denied_wins_and_no_rules_means_no_restriction() {
    assert_eq!(IpRules::default().judge(None), IpVerdict::Permitted);
    assert_eq!(rules(&["192.0.2.1"], &[]).judge(None), IpVerdict::AddressRequired);
    assert_eq!(rules(&[], &["192.0.2.1"]).judge(None), IpVerdict::AddressRequired);
    assert_eq!(judge(&rules(&[], &["192.0.2.1"]), "192.0.2.2"), IpVerdict::Permitted);
    assert_eq!(judge(&rules(&["192.0.2.1"], &["192.0.2.1"]), "192.0.2.1"), IpVerdict::NotAllowed);
}

#[test]
fn the_edges_of_a_block_are_inside_and_their_neighbours_outside() {
    let rules = rules(&["192.0.2.64/26", "2001:db8::/33"], &[]);
    for ip in ["192.0.2.64", "192.0.2.127", "2001:db8::", "2001:db8:7fff:ffff:ffff:ffff:ffff:ffff"] {
        assert_eq!(judge(&rules, ip), IpVerdict::Permitted, "{ip}");
    }
    for ip in ["192.0.2.63", "192.0.2.128", "2001:db8:8000::", "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff"] {
        assert_eq!(judge(&rules, ip), IpVerdict::NotAllowed, "{ip}");
    }
}

#[test]
fn blocks_are_shown_in_canonical_form() {
    for (given, shown) in [
        ("10.0.0.1", "10.0.0.1"),
        ("10.0.0.1/32", "10.0.0.1"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("2001:DB8:0::/32", "2001:db8::/32"),
        ("2001:db8::1/128", "2001:db8::1"),
    ] {
        assert_eq!(given.parse::<IpBlock>().unwrap().to_string(), shown);
    }
}

#[test]
fn case_12_a_block_that_is_not_written_in_the_one_way_is_refused_with_the_way() {
    let mut out = String::new();
    for text in [
        "010.0.0.0/8",
        "10.0.0.5/8",
        "10.0.0.0/08",
        "10.0.0.0/+8",
        "10.0.0.0/-1",
        "10.0.0.0/33",
        "10.0.0.0/",
        "10/8",
        "0x0a.0.0.0/8",
        "fe80::1%eth0/64",
        "fe80::1%eth0",
        "10.0.0.1:443",
        "[2001:db8::1]",
        "[2001:db8::1]:443",
        "::ffff:10.0.0.1",
        "::ffff:10.0.0.0/104",
        "::ffff:0:0/96",
        "0.0.0.0/0",
        "::/0",
        "2001:db8::1/32",
        "2001:db8::/129",
        " 10.0.0.1",
        "10.0.0.1\n",
        "localhost",
        "",
        "256.1.1.1",
        "10.0.0.0/8/8",
        "١٠.0.0.1",
    ] {
        writeln!(out, "{}", text.parse::<IpBlock>().unwrap_err()).unwrap();
    }
    insta::assert_snapshot!(out, @r"
    `010.0.0.0/8` has leading zeros, which some read as octal; begin with 10.0.0.0 if you mean decimal
    `10.0.0.5/8` has bits set beyond its prefix; write 10.0.0.0/8 for the block or 10.0.0.5 for the address
    `10.0.0.0/08` has leading zeros in its prefix length; write /8
    `10.0.0.0/+8` has no prefix length from 1 to 32 after the slash
    `10.0.0.0/-1` has no prefix length from 1 to 32 after the slash
    `10.0.0.0/33` has no prefix length from 1 to 32 after the slash
    `10.0.0.0/` has no prefix length from 1 to 32 after the slash
    `10/8` is no address or CIDR block; write one such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32
    `0x0a.0.0.0/8` is no address or CIDR block; write one such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32
    `fe80::1%eth0/64` has a zone, which means nothing to another machine; write fe80::1
    `fe80::1%eth0` has a zone, which means nothing to another machine; write fe80::1
    `10.0.0.1:443` has a port; write 10.0.0.1
    `[2001:db8::1]` has brackets; write 2001:db8::1
    `[2001:db8::1]:443` has brackets; write 2001:db8::1
    `::ffff:10.0.0.1` is in the IPv4-mapped form, which never matches; write 10.0.0.1
    `::ffff:10.0.0.0/104` is in the IPv4-mapped form, which never matches; write 10.0.0.0/8
    `::ffff:0:0/96` is in the IPv4-mapped form, which never matches; write IPv4 addresses or blocks
    `0.0.0.0/0` is every address; leave allowed_ips empty for no restriction, and set disabled to shut everybody out
    `::/0` is every address; leave allowed_ips empty for no restriction, and set disabled to shut everybody out
    `2001:db8::1/32` has bits set beyond its prefix; write 2001:db8::/32 for the block or 2001:db8::1 for the address
    `2001:db8::/129` has no prefix length from 1 to 128 after the slash
    ` 10.0.0.1` is no address or CIDR block; write one such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32
    `10.0.0.1\u{a}` is no address or CIDR block; write one such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32
    `localhost` is no address or CIDR block; write one such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32
    `` is no address or CIDR block; write one such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32
    `256.1.1.1` is no address or CIDR block; write one such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32
    `10.0.0.0/8/8` has no prefix length from 1 to 32 after the slash
    `\u{661}\u{660}.0.0.1` is no address or CIDR block; write one such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32
    ");
}

#[test]
fn case_13_what_is_no_address_is_refused() {
    for text in ["unknown", "10.0.0.1:443", "[::1]", "10.0.0.1, 1.2.3.4", "fe80::1%1", "010.0.0.1", "10.1", "1"] {
        assert!(text.parse::<CallerIp>().is_err(), "{text}");
    }
    insta::assert_snapshot!("10.0.0.1:443".parse::<CallerIp>().unwrap_err(), @"`10.0.0.1:443` is no IP address; write one IPv4 or IPv6 address, without port, brackets, zone or prefix length");
}

#[test]
fn the_way_that_is_told_is_itself_accepted() {
    let told = "::ffff:10.0.0.5/104".parse::<IpBlock>().unwrap_err();
    let way = told.rsplit("write ").next().unwrap();
    assert_eq!(way.parse::<IpBlock>().unwrap().to_string(), "10.0.0.0/8");
}

proptest! {
    #[test]
    fn a_block_holds_what_the_library_says_it_holds(
        v4 in any::<[u32; 2]>(),
        v6 in any::<[u128; 2]>(),
        length in 0_u8..=128,
        shared in 0_u32..=128,
    ) {
        // An address that shares about as many bits with the block as the block is long.
        let near = |bits: u128, width: u32| bits ^ 1_u128.checked_shl(width.saturating_sub(shared + 1)).unwrap_or(1);
        let v6_block = Ipv6Net::new(v6[0].into(), length).unwrap().trunc();
        let v4_block = Ipv4Net::new(v4[0].into(), length.min(32)).unwrap().trunc();
        let near_v4 = u32::try_from(near(v4[0].into(), 32) & u128::from(u32::MAX)).unwrap();
        let ips: [IpAddr; 4] = [
            IpAddr::V6(v6[1].into()),
            IpAddr::V6(near(v6[0], 128).into()),
            IpAddr::V4(v4[1].into()),
            IpAddr::V4(near_v4.into()),
        ];
        for block in [IpNet::V6(v6_block), IpNet::V4(v4_block)] {
            for ip in ips {
                prop_assert_eq!(IpBlock(block).contains(CallerIp(ip)), block.contains(&ip), "{} {}", block, ip);
            }
        }
    }
}
