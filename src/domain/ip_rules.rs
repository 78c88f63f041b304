//! Where a key may be used from.
//!
//! An address is brought to canonical form once, by [`CallerIp`], and only then compared: the IPv4-mapped IPv6 form
//! (RFC 4291, section 2.5.5.2) is the IPv4 address, and no other embedding is unwrapped. What is not written in one
//! obvious way is refused with the way to write it.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;

use super::text::quoted;

#[cfg(test)]
mod tests;

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

    /// The address.
    pub fn address(self) -> IpAddr {
        self.0
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

impl CallerIp {
    /// The address as 128 bits, those of IPv4 as IPv6 maps them: different addresses have different ones.
    pub fn bits(self) -> [u64; 2] {
        let bits = match self.0 {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
            IpAddr::V6(ip) => ip.to_bits(),
        };
        let [high, low] = [bits >> 64, bits & u128::from(u64::MAX)].map(|half| u64::try_from(half).unwrap_or(u64::MAX));
        [high, low]
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
    /// As the library has it, without the block's last address, which that makes and compares each time (a hundred blocks:
    /// 560 ns against 260). The bits in front of the host's are those of the block; where there are none, any are.
    fn contains(self, ip: CallerIp) -> bool {
        match (self.0, ip.0) {
            (IpNet::V4(net), IpAddr::V4(ip)) => {
                let differing = net.addr().to_bits() ^ ip.to_bits();
                differing.checked_shr(u32::from(net.max_prefix_len() - net.prefix_len())).unwrap_or(0) == 0
            }
            (IpNet::V6(net), IpAddr::V6(ip)) => {
                let differing = net.addr().to_bits() ^ ip.to_bits();
                differing.checked_shr(u32::from(net.max_prefix_len() - net.prefix_len())).unwrap_or(0) == 0
            }
            _ => false,
        }
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
                Some(length) if length > 0 => {
                    IpNet::new(v4.into(), length).map_or_else(|_| v4.to_string(), |net| net.trunc().to_string())
                }
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
        judge(&self.allowed, &self.denied, ip)
    }
}

/// Whether these rules let `ip` in.
pub(super) fn judge(allowed: &[IpBlock], denied: &[IpBlock], ip: Option<CallerIp>) -> IpVerdict {
    if allowed.is_empty() && denied.is_empty() {
        return IpVerdict::Permitted;
    }
    let Some(ip) = ip else { return IpVerdict::AddressRequired };
    let is_allowed = allowed.is_empty() || allowed.iter().any(|block| block.contains(ip));
    if is_allowed && !denied.iter().any(|block| block.contains(ip)) {
        IpVerdict::Permitted
    } else {
        IpVerdict::NotAllowed
    }
}
