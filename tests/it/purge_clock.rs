//! A purge cannot be undone, so it does not rely on one clock.

use std::time::Duration;

use claviger::{
    app::{Settings, alarms::Alarm, clock_check::MAX_CLOCK_DIFFERENCE},
    clock::{Clock, SystemClock},
    domain::Time,
};

use crate::{
    calls::{delete, get, refused_for},
    harness::{Engine, Service, app_settings},
};

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A service with the limits of production, on a clock that begins at the time of this machine.
struct Checked(Service);

/// The same, on a clock that was 40 days ahead when the process started.
struct Ahead(Checked);

impl Checked {
    async fn start(engine: Engine) -> Option<Self> {
        Self::start_at(engine, SystemClock.now()).await
    }

    async fn start_at(engine: Engine, now: Time) -> Option<Self> {
        let settings = Settings { max_clock_difference: MAX_CLOCK_DIFFERENCE, ..app_settings() };
        Service::start_at(engine, settings, now).await.map(Self)
    }

    /// A key that was deleted and is due to be purged.
    async fn due_key(&self) -> String {
        let id = self.0.make_for("acme", &[]).await.id;
        delete(self.0.admin(), &id).await.unwrap();
        let micros = (DAY * 31).as_micros();
        let sql = format!("UPDATE api_key SET purge_time = purge_time - {micros} WHERE purge_time IS NOT NULL");
        assert_eq!(self.0.execute_silently(&sql).await, 1);
        id
    }

    /// Whether the key is still there after a round of upkeep.
    async fn survives(&self, id: &str) -> bool {
        self.0.app.upkeep().await.unwrap();
        match get(self.0.admin(), id).await {
            Ok(_) => true,
            outcome => {
                assert_eq!(refused_for(outcome), "KEY_NOT_FOUND");
                false
            }
        }
    }

    fn alarms(&self) -> u64 {
        self.0.app.alarms().raised(Alarm::ClockImplausible)
    }
}

impl Ahead {
    async fn start(engine: Engine) -> Option<Self> {
        Checked::start_at(engine, SystemClock.now().saturating_add(DAY * 40)).await.map(Self)
    }
}

on_every_engine! {
    async fn case_70_a_clock_that_is_moved_40_days_ahead_purges_nothing(service: Checked) {
        let id = service.due_key().await;
        let right = service.0.clock.now();
        service.0.clock.set(right.saturating_add(DAY * 40));
        for _ in 0..3 {
            assert!(service.survives(&id).await);
            assert_eq!(service.alarms(), 1, "one alarm while it lasts");
        }
        service.0.clock.set(right.saturating_sub(HOUR * 2));
        assert!(service.survives(&id).await);
        // Once it is right again, so is the purge.
        service.0.clock.set(right);
        assert!(!service.survives(&id).await);
        assert_eq!(service.alarms(), 1);
    }
}

on_every_engine! {
    async fn case_70_a_replica_that_starts_40_days_ahead_of_the_database_purges_nothing(service: Ahead) {
        let Ahead(service) = service;
        let id = service.due_key().await;
        assert!(service.survives(&id).await && service.survives(&id).await);
        assert_eq!(service.alarms(), 1);
    }
}

on_every_engine! {
    async fn a_clock_that_is_within_an_hour_of_the_others_purges_what_is_due(service: Checked) {
        let id = service.due_key().await;
        service.0.clock.set(service.0.clock.now().saturating_add(HOUR / 2));
        assert!(!service.survives(&id).await);
        assert_eq!(service.alarms(), 0);
    }
}
