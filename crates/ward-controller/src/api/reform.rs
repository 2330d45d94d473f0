//! Changes of users, groups, roles and permissions: each is made in a transaction, and undone where it would give
//! somebody what its author does not have, or leave nobody who administers.

use ward_types::{AuditOutcome, Code, Object, PrivilegeSet, Problem};

use crate::authz::operations::Operation;
use crate::authz::{Excess, Granted, Policy, Target as _};
use crate::controller::Controller;
use crate::store::audit::{self, Draft};
use crate::store::{Tx, permission};

/// A change that has begun.
pub(super) struct Reform {
    pub(super) tx: Tx,
    before: Policy,
}

impl Reform {
    /// Begins a change.
    pub(super) async fn begin(controller: &Controller) -> Result<Self, Problem> {
        let mut tx = controller.store.write().await?;
        let before = permission::policy(&mut tx).await?;
        Ok(Self { tx, before })
    }

    /// How things were.
    pub(super) const fn before(&self) -> &Policy {
        &self.before
    }

    /// Makes the change good, where it gives nobody too much.
    pub(super) async fn finish<O: Operation>(
        mut self,
        controller: &Controller,
        granted: &Granted<O>,
        what: &str,
    ) -> Result<(), Problem> {
        let after = permission::policy(&mut self.tx).await?;
        if let Some(excess) = self.before.excess(&after, granted.user()) {
            drop(self.tx);
            return Err(too_much(controller, granted, what, excess).await);
        }
        if self.before.has_administrator() && !after.has_administrator() {
            return Err(Problem::new(
                Code::LastAdministrator,
                what,
                "nobody would be left who may manage users and permissions of the whole inventory",
                "give somebody else the role `administrator` on `root` first",
            ));
        }
        self.tx.commit().await?;
        Ok(())
    }
}

/// The refusal of a change that gives too much; it is in the audit log.
pub(super) async fn too_much<O: Operation>(
    controller: &Controller,
    granted: &Granted<O>,
    what: &str,
    excess: Excess,
) -> Problem {
    let Excess { subject, object, privileges } = excess;
    let detail = format!("{what}: it would give {subject} on {object} more than its author has: {privileges}");
    let record = async {
        let mut tx = controller.store.write().await?;
        let draft = Draft {
            user: granted.user().as_str(),
            operation: O::NAME,
            outcome: AuditOutcome::Refused,
            object: granted.on().object(),
            object_name: granted.on().name(),
            privileges: PrivilegeSet::NONE,
            keys: Vec::new(),
            task: None,
            detail,
        };
        audit::record(&mut tx, draft).await?;
        tx.commit().await
    };
    if let Err(error) = record.await {
        return error.into();
    }
    let place = if object == Object::Root { "the whole inventory".to_owned() } else { format!("`{object}`") };
    Problem::new(
        Code::AuthDenied,
        what,
        format!("it would give {subject} privileges on {place} that you don't have there: {privileges}"),
        "nobody gives what it does not have; ask somebody who has them",
    )
}
