//! The reminder of a key that is not backed up, and of one that was given up.

use std::process::Command;

use ward_types::{Event, EventKind};

use crate::support::{System, eventually, text};

impl System {
    fn reminders(&self) -> Vec<Event> {
        let events: Vec<Event> = self.json(&["event", "ls", "--after", "0", "--limit", "1000"]);
        events.into_iter().filter(|event| event.kind == EventKind::ProviderNotBackedUp).collect()
    }

    /// A day goes by while the controller is off: what it noted is a day older.
    fn a_day_goes_by(&mut self, table: &str) {
        self.kill_controller();
        let change = format!(
            "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); \
             assert c.execute('UPDATE {table} SET reminded = reminded - 86400000000').rowcount == 1; c.commit()"
        );
        let database = self.controller_state().join("controller.db");
        let python = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.venv/bin/python");
        assert!(Command::new(python).args(["-c", &change, text(&database)]).status().unwrap().success());
        self.start_controller(&[]);
    }

    fn is_reminded(&self, times: usize) -> Option<Event> {
        self.host_answers(0);
        eventually("the reminder", || {
            let mut reminders = self.reminders();
            assert!(reminders.len() <= times, "{reminders:#?}");
            (reminders.len() == times).then(|| reminders.pop())
        })
    }
}

#[test]
fn the_reminder_returns_each_day_until_there_is_a_backup() {
    let mut system = System::start(1);
    system.ward(&["provider", "add", "native", "n1"]);
    // It was said when the provider was added: a controller that starts anew does not say it again on the same day.
    system.kill_controller();
    system.start_controller(&[]);
    system.is_reminded(0);
    system.a_day_goes_by("native_provider");
    let told = system.is_reminded(1);
    assert!(told.unwrap().message.contains("ward provider export n1"));
    system.back_up("n1", "n1.p12");
    system.a_day_goes_by("native_provider");
    system.is_reminded(1);

    // Given up by force, it stays on everybody's mind as long as a VM needs it.
    system.encrypted_vm("web-1", "n1");
    system.ward(&["provider", "rm", "n1", "--force", "n1"]);
    system.a_day_goes_by("native_removed");
    let told = system.is_reminded(2);
    assert!(told.unwrap().message.contains("ward provider import n1"));
}
