//! What a user may see: for lists, which leave out the rest.

use axum::extract::FromRequestParts;
use http::request::Parts;
use ward_types::{Object, Privilege, PrivilegeSet};

use super::decide::{Grant, privileges_on};
use super::target::{Root, Target};
use crate::api::auth::Caller;
use crate::api::edge::ApiError;
use crate::controller::{Controller, Shared};
use crate::store::{StoreError, permission};

/// What a user may see. What lists ask for in their signatures: without one nothing is listed.
pub(crate) struct Sight {
    caller: Caller,
    grants: Vec<Grant>,
}

impl Sight {
    /// What the caller may see.
    pub(crate) async fn of(controller: &Controller, caller: Caller) -> Result<Self, StoreError> {
        let grants = permission::grants_of(&mut *controller.store.read().await?, caller.id()).await?;
        Ok(Self { caller, grants })
    }

    pub(crate) const fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Whether the target is to be shown.
    pub(crate) fn sees<T: Target>(&self, target: &T) -> bool {
        self.may(T::SEEN_BY, target)
    }

    /// Whether the user has a privilege on all that the target is made of.
    pub(crate) fn may<T: Target>(&self, privilege: Privilege, target: &T) -> bool {
        target.paths().iter().all(|path| self.has(privilege, path))
    }

    /// What the user may on the object at the start of `path`.
    pub(crate) fn privileges(&self, path: &[Object]) -> PrivilegeSet {
        privileges_on(&self.grants, path)
    }

    /// Whether the user has a privilege on the object at the start of `path`.
    pub(crate) fn has(&self, privilege: Privilege, path: &[Object]) -> bool {
        self.privileges(path).contains(privilege)
    }

    /// Whether the user has it at the root.
    pub(crate) fn has_at_root(&self, privilege: Privilege) -> bool {
        self.has(privilege, &Root.path())
    }
}

impl FromRequestParts<Shared> for Sight {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, controller: &Shared) -> Result<Self, ApiError> {
        let caller = Caller::from_request_parts(parts, controller).await?;
        Ok(Self::of(controller, caller).await?)
    }
}
