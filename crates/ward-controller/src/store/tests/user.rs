//! Users and sessions.

use ward_types::{Name, TokenId};

use super::super::cells::now;
use super::super::{Result, Tx, user};
use super::{Db, conflict, name, on_both};

on_both! {
    users
    a_session_is_good_until_it_expires_or_ends
}

const MINUTE: i64 = 60_000_000;

async fn users(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    let ann = user::add(&mut tx, &name("ann"), "hash").await.unwrap();
    let found = user::find(&mut tx, "ann").await.unwrap().unwrap();
    assert_eq!((found.id, found.name, found.password_hash.as_str()), (ann, name("ann"), "hash"));
    for nobody in ["bob", "", "Ann", "' OR 1=1 --", &ann.to_string()] {
        assert!(user::find(&mut tx, nobody).await.unwrap().is_none(), "{nobody}");
    }
    tx.commit().await.unwrap();
    conflict(user::add(&mut db.store.write().await.unwrap(), &name("ann"), "other").await);
}

async fn session(tx: &mut Tx, secret_hash: &str) -> Result<Option<(TokenId, Name)>> {
    Ok(user::session(tx, secret_hash).await?.map(|row| (row.id, row.user)))
}

async fn a_session_is_good_until_it_expires_or_ends(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    let ann = user::add(&mut tx, &name("ann"), "hash").await.unwrap();
    user::add_session(&mut tx, ann, "expired", now() - 1).await.unwrap();
    assert_eq!(session(&mut tx, "expired").await.unwrap(), None);
    let one = user::add_session(&mut tx, ann, "one", now() + MINUTE).await.unwrap();
    let two = user::add_session(&mut tx, ann, "two", now() + MINUTE).await.unwrap();
    assert_eq!(session(&mut tx, "one").await.unwrap(), Some((one, name("ann"))));
    assert_eq!(session(&mut tx, "other").await.unwrap(), None);
    user::end_session(&mut tx, one).await.unwrap();
    user::end_session(&mut tx, TokenId::new()).await.unwrap();
    assert_eq!(session(&mut tx, "one").await.unwrap(), None);
    assert_eq!(session(&mut tx, "two").await.unwrap(), Some((two, name("ann"))));
    // The expired one was swept away, else its secret could not be taken again.
    user::add_session(&mut tx, ann, "expired", now() + MINUTE).await.unwrap();
}
