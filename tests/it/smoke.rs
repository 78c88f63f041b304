//! The life of a key, from its making to its end.

use claviger::grpc::proto::{self, DecisionCode};

use crate::harness::{Engine, Service};

on_every_engine! {
    async fn a_key_lives_from_create_to_delete(service: Service) {
        let made = service
            .make(proto::ApiKey {
                merchant_username: "acme".into(),
                allowed_ips: vec!["192.0.2.0/24".into()],
                webhook_format: proto::WebhookFormat::MultipleJson.into(),
                ..Default::default()
            })
            .await;
        let valid = service.validate(&made.key, "192.0.2.7").await.unwrap();
        assert!(valid.valid);
        assert_eq!(valid.principal.unwrap().webhook_format(), proto::WebhookFormat::MultipleJson);
        assert_eq!(service.validate(&made.key, "198.51.100.1").await.unwrap().code(), DecisionCode::IpNotAllowed);
        assert_eq!(service.decision(&made.key).await, DecisionCode::CallerIpRequired);

        let request = proto::RotateRequest { id: made.id.clone(), ..Default::default() };
        let rotated = service.admin().rotate(request).await.unwrap().into_inner();
        assert!(rotated.enforced);
        assert_eq!(service.decision(&made.key).await, DecisionCode::SecretRetired);
        assert!(service.validate(&rotated.key, "192.0.2.7").await.unwrap().valid);

        let request = proto::DeleteRequest { id: made.id.clone(), ..Default::default() };
        let deleted = service.admin().delete(request).await.unwrap().into_inner();
        assert!(deleted.enforced);
        let refused = service.validate(&rotated.key, "192.0.2.7").await.unwrap();
        assert!(!refused.valid && refused.principal.is_none());
        assert_eq!(refused.code(), DecisionCode::Deleted);
    }
}
