//! Whoever has no backup of a native provider's key is reminded, by the clock.

use ward_types::{EventKind, KdkId, KeyRef, NativeKey, Power, ProviderName, Salt, VmId, WrappedKek};

use super::House;
use crate::native::remind::round;
use crate::store::cells::now;
use crate::store::{event, native, vm};

const DAY: i64 = 24 * 60 * 60 * 1_000_000;

async fn told(house: &House, at: i64) -> usize {
    round(&house.controller, at).await.unwrap();
    let events = event::after(&mut house.controller.store.read().await.unwrap(), 0, 1000).await.unwrap();
    events.iter().filter(|event| event.kind == EventKind::ProviderNotBackedUp).count()
}

/// One that was removed by force while a VM needed it is not forgotten, as long as one does.
#[tokio::test]
async fn it_comes_each_day_for_a_removed_provider_as_long_as_a_vm_needs_it() {
    let house = House::new().await;
    let place = house.add_cluster("default").await;
    let (name, key_id): (ProviderName, _) = ("n1".parse().unwrap(), KdkId::new());
    let (salt, wrapped) = (Salt([1; 32]), WrappedKek([2; 40]));
    let key = NativeKey { key_id, version: 1, salt, wrapped, vm: VmId::new() };
    let vm = house.add_vm("web", place, Power::Off, Some(&KeyRef::native(name.clone(), key))).await;
    let mut tx = house.controller.store.write().await.unwrap();
    native::note_removed(&mut tx, &name, key_id).await.unwrap();
    tx.commit().await.unwrap();
    let removed = now();
    assert_eq!(told(&house, removed + DAY / 2).await, 0);
    assert_eq!(told(&house, removed + DAY + 1).await, 1);
    assert_eq!(told(&house, removed + DAY + DAY / 2).await, 1, "once a day");
    assert_eq!(told(&house, removed + 2 * DAY + 2).await, 2);
    let mut tx = house.controller.store.write().await.unwrap();
    vm::remove(&mut tx, vm).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(told(&house, removed + 9 * DAY).await, 2);
    assert!(native::removed(&mut house.controller.store.read().await.unwrap()).await.unwrap().is_empty());
}
