use ward_types::{Code, KeyState};

use super::super::{KeyUse, judge_state};
use super::{key, refused};

#[test]
fn only_an_active_key_encrypts_and_a_new_one_can_be_made_so() {
    let what = "cannot encrypt VM `web`";
    assert_eq!(judge_state(what, &key("7"), KeyState::Active), Ok(KeyUse::Ready));
    assert_eq!(judge_state(what, &key("7"), KeyState::PreActive), Ok(KeyUse::Activate));
    for state in [KeyState::Deactivated, KeyState::Compromised, KeyState::Destroyed, KeyState::DestroyedCompromised] {
        let problem = refused(judge_state(what, &key("7"), state), Code::KeyNotUsable);
        assert!(problem.why.contains("kms/7") && problem.why.contains(&state.to_string()), "{}", problem.why);
    }
}
