//! On whose behalf a part of a budget is held.

use std::{net::IpAddr, sync::Arc};

/// The party that a part of a [`Budget`](super::Budget) counts against.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Share {
    /// All credentials whose merchant this process has not learned yet, together.
    Unlearned,
    /// One key that reaches all merchants, by its id.
    Key([u8; 16]),
    /// All keys of one merchant that reach this merchant alone, by its name.
    Merchant(Arc<str>),
    /// One network peer: an IPv4 address, or the first 64 bits of an IPv6 address.
    Peer(IpAddr),
}

impl Share {
    /// The share of a network peer. An IPv4-mapped address counts as the IPv4 address. An IPv6 address counts by its /64,
    /// which is what one subscriber usually has at its disposal.
    pub fn of_peer(address: IpAddr) -> Self {
        Self::Peer(match address.to_canonical() {
            IpAddr::V6(v6) => {
                let network = v6.to_bits() & !u128::from(u64::MAX);
                IpAddr::V6(network.into())
            }
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> Share {
        Share::of_peer(text.parse().unwrap())
    }

    #[test]
    fn ipv6_peers_share_by_their_64_and_mapped_addresses_are_ipv4() {
        assert_eq!(peer("2001:db8:1:2:3::4"), peer("2001:db8:1:2:ffff::"));
        assert_ne!(peer("2001:db8:1:2::1"), peer("2001:db8:1:3::1"));
        assert_eq!(peer("::ffff:192.0.2.7"), peer("192.0.2.7"));
        assert_ne!(peer("192.0.2.7"), peer("192.0.2.8"));
    }
}
