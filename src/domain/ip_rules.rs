//! Where a key may be used from.
//!
//! An address is brought to canonical form once, by [`CallerIp`], and only then compared: the IPv4-mapped IPv6 form
//! (RFC 4291, section 2.5.5.2) is the IPv4 address, and no other embedding is unwrapped. What is not written in one
//! obvious way is refused with the way to write it.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;

use super::text::quoted;

/// The most blocks in each of the two lists.
pub const MAX_BLOCKS: usize = 100;

/// An address that a key was used from, in canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallerIp(IpAddr);

impl CallerIp {
    /// The canonical form of `address`.
    pub fn new(address: IpAddr) -> Self {
        Self(address.to_canonical())
    }
}

impl FromStr for CallerIp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self::new).map_err(|_| {
            format!(
                "{} is no IP address; write one IPv4 or IPv6 address, without port, brackets, zone or prefix length",
                quoted(text)
            )
        })
    }
}

impl fmt::Display for CallerIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One address or CIDR block of a rule, with no host bits set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IpBlock(IpNet);

impl IpBlock {
    fn contains(self, ip: CallerIp) -> bool {
        self.0.contains(&ip.0)
    }
}

impl fmt::Display for IpBlock {
    /// Canonical: RFC 5952 addresses, a single address without a suffix.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() { self.0.addr().fmt(f) } else { self.0.fmt(f) }
    }
}

impl FromStr for IpBlock {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address_text, length_text) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address = block_address(text, address_text)?;
        let most: u8 = if address.is_ipv4() { 32 } else { 128 };
        let length = match length_text {
            None => most,
            Some(length) => prefix_length(text, length, most)?,
        };
        if let IpAddr::V6(v6) = address
            && let Some(v4) = v6.to_ipv4_mapped()
        {
            let instead = match length.checked_sub(96) {
                Some(32) => format!("{v4}"),
                Some(length) if length > 0 => format!("{v4}/{length}"),
                _ => "IPv4 addresses or blocks".to_owned(),
            };
            return Err(format!("{} is in the IPv4-mapped form, which never matches; write {instead}", quoted(text)));
        }
        if length == 0 {
            return Err(format!(
                "{} is every address; leave allowed_ips empty for no restriction, and set disabled to shut everybody out",
                quoted(text)
            ));
        }
        let net = IpNet::new(address, length).map_err(|_| format!("{} has a wrong prefix length", quoted(text)))?;
        if net.addr() != net.network() {
            return Err(format!(
                "{} has bits set beyond its prefix; write {} for the block or {address} for the address",
                quoted(text),
                net.trunc()
            ));
        }
        Ok(Self(net))
    }
}

/// Reads the part before the slash, telling the usual mistakes apart.
fn block_address(whole: &str, text: &str) -> Result<IpAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let whole = quoted(whole);
    if let Some((address, _)) = text.split_once('%')
        && address.parse::<IpAddr>().is_ok()
    {
        return Err(format!("{whole} has a zone, which means nothing to another machine; write {address}"));
    }
    if text.starts_with('[') {
        let bare = text.trim_start_matches('[').split(']').next().unwrap_or_default();
        return Err(match bare.parse::<IpAddr>() {
            Ok(address) => format!("{whole} has brackets; write {address}"),
            Err(_) => format!("{whole} is no address or CIDR block; write it without brackets"),
        });
    }
    if let Some((address, port)) = text.rsplit_once(':')
        && address.parse::<std::net::Ipv4Addr>().is_ok()
        && port.bytes().all(|b| b.is_ascii_digit())
    {
        return Err(format!("{whole} has a port; write {address}"));
    }
    if let Some(plain) = without_leading_zeros(text) {
        return Err(format!(
            "{whole} has leading zeros, which some read as octal; begin with {plain} if you mean decimal"
        ));
    }
    Err(format!("{whole} is no address or CIDR block; write one such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32"))
}

/// The dotted address without leading zeros, if that is all that is wrong with it.
fn without_leading_zeros(text: &str) -> Option<std::net::Ipv4Addr> {
    let parts: Vec<&str> = text.split('.').collect();
    if parts.len() != 4 || !parts.iter().all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())) {
        return None;
    }
    let plain: Vec<&str> = parts.iter().map(|part| part.trim_start_matches('0')).collect();
    plain.iter().map(|part| if part.is_empty() { "0" } else { part }).collect::<Vec<_>>().join(".").parse().ok()
}

/// Reads the part after the slash: decimal digits without sign or leading zeros, within the family's range.
fn prefix_length(whole: &str, text: &str, most: u8) -> Result<u8, String> {
    let whole = quoted(whole);
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if digits && text.len() > 1 && text.starts_with('0') {
        return Err(format!(
            "{whole} has leading zeros in its prefix length; write /{}",
            match text.trim_start_matches('0') {
                "" => "0",
                rest => rest,
            }
        ));
    }
    match text.parse::<u8>() {
        Ok(length) if digits && length <= most => Ok(length),
        _ => Err(format!("{whole} has no prefix length from 1 to {most} after the slash")),
    }
}

/// The address rules of a key. Denied wins over allowed; with both empty there is no restriction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IpRules {
    /// Where the key may be used from; empty: from anywhere.
    pub allowed: Vec<IpBlock>,
    /// Where it may not, even so.
    pub denied: Vec<IpBlock>,
}

/// What address rules say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpVerdict {
    /// Come in.
    Permitted,
    /// There are rules, and no address to judge by them.
    AddressRequired,
    /// The rules do not let the address in.
    NotAllowed,
}

impl IpRules {
    /// Whether the rules let `ip` in.
    pub fn judge(&self, ip: Option<CallerIp>) -> IpVerdict {
        if self.allowed.is_empty() && self.denied.is_empty() {
            return IpVerdict::Permitted;
        }
        let Some(ip) = ip else { return IpVerdict::AddressRequired };
        let allowed = self.allowed.is_empty() || self.allowed.iter().any(|block| block.contains(ip));
        if allowed && !self.denied.iter().any(|block| block.contains(ip)) {
            IpVerdict::Permitted
        } else {
            IpVerdict::NotAllowed
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

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
}
