//! Moments in microseconds, as every table keeps them.

use std::time::Duration;

/// A moment: microseconds since 1970-01-01T00:00:00Z, negative before it.
///
/// Always within the range of `google.protobuf.Timestamp`, the years 1 to 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(i64);

impl Time {
    /// 0001-01-01T00:00:00Z.
    pub const MIN: Self = Self(-62_135_596_800_000_000);
    /// 9999-12-31T23:59:59.999999Z.
    pub const MAX: Self = Self(253_402_300_799_999_999);

    /// The moment `micros` microseconds after the epoch, or the nearest end of the range.
    pub fn from_micros(micros: i64) -> Self {
        Self(micros.clamp(Self::MIN.0, Self::MAX.0))
    }

    /// The moment `seconds` and `nanos` after the epoch, rounded down to microseconds; none outside the range.
    pub fn from_timestamp(seconds: i64, nanos: i32) -> Option<Self> {
        let nanos = u32::try_from(nanos).ok().filter(|n| *n < 1_000_000_000)?;
        let micros = seconds.checked_mul(1_000_000)?.checked_add(i64::from(nanos / 1_000))?;
        (Self::MIN.0..=Self::MAX.0).contains(&micros).then_some(Self(micros))
    }

    /// Microseconds since the epoch.
    pub fn micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, and the nanoseconds on top of them.
    pub fn to_timestamp(self) -> (i64, i32) {
        let nanos = i32::try_from(self.0.rem_euclid(1_000_000) * 1_000).unwrap_or(0);
        (self.0.div_euclid(1_000_000), nanos)
    }

    /// This much later; none if that is outside the range.
    pub fn checked_add(self, duration: Duration) -> Option<Self> {
        let micros = i64::try_from(duration.as_micros()).ok()?;
        let sum = self.0.checked_add(micros)?;
        (sum <= Self::MAX.0).then_some(Self(sum))
    }

    /// This much later, or the end of the range.
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        self.checked_add(duration).unwrap_or(Self::MAX)
    }

    /// This much earlier, or the beginning of the range.
    #[must_use]
    pub fn saturating_sub(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self::from_micros(self.0.saturating_sub(micros))
    }

    /// How long ago `earlier` was; zero if it is in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_is_that_of_a_protobuf_timestamp() {
        assert_eq!(Time::from_timestamp(-62_135_596_800, 0), Some(Time::MIN));
        assert_eq!(Time::from_timestamp(-62_135_596_801, 0), None);
        assert_eq!(Time::from_timestamp(253_402_300_799, 999_999_999), Some(Time::MAX));
        assert_eq!(Time::from_timestamp(253_402_300_800, 0), None);
        assert_eq!(Time::from_timestamp(i64::MAX, 0), None);
        assert_eq!(Time::from_timestamp(0, -1), None);
        assert_eq!(Time::from_timestamp(0, 1_000_000_000), None);
    }

    #[test]
    fn a_moment_before_the_epoch_survives_the_way_to_the_wire_and_back() {
        let time = Time::from_micros(-1);
        assert_eq!(time.to_timestamp(), (-1, 999_999_000));
        assert_eq!(Time::from_timestamp(-1, 999_999_000), Some(time));
    }

    #[test]
    fn sums_end_at_the_edge_of_the_range() {
        assert_eq!(Time::MAX.checked_add(Duration::from_micros(1)), None);
        assert_eq!(Time::MAX.saturating_add(Duration::MAX), Time::MAX);
        assert_eq!(Time::MIN.saturating_sub(Duration::MAX), Time::MIN);
        assert_eq!(Time::MIN.since(Time::MAX), Duration::ZERO);
    }
}
