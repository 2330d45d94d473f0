//! `ward event`.

use clap::Subcommand;
use ward_controller::api::types::EventQuery;
use ward_types::Problem;

use crate::client::{Api, WAIT_MS};
use crate::output::{Output, print_text, table};

/// What to do with events.
#[derive(Subcommand)]
pub(crate) enum Event {
    /// List events, the newest last.
    Ls {
        /// Only those after this number.
        #[arg(long)]
        after: Option<i64>,
        /// At most so many.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Go on, and print each new one.
        #[arg(long)]
        follow: bool,
    },
}

impl Event {
    pub(crate) async fn run(self, output: Output) -> Result<(), Problem> {
        let Self::Ls { after, limit, follow } = self;
        let api = Api::open()?;
        let ask = |after, wait_ms| {
            let query = EventQuery { after, limit: Some(limit), wait_ms };
            let api = &api;
            async move { api.query::<_, Vec<ward_types::Event>>("/events", &query).await }
        };
        let mut events = ask(after, 0).await?;
        if !follow {
            return output
                .show(&events, || table(&["no", "time", "severity", "event", "message"], events.iter().map(row)));
        }
        let mut last = after.unwrap_or(0);
        loop {
            for event in &events {
                last = last.max(event.id);
                match output {
                    Output::Table => print_text(&row(event).join("  "))?,
                    Output::Json => {
                        let line = serde_json::to_string(event)
                            .map_err(|error| Problem::internal("cannot print an event", error))?;
                        print_text(&line)?;
                    }
                }
            }
            events = ask(Some(last), WAIT_MS).await?;
        }
    }
}

fn row(event: &ward_types::Event) -> Vec<String> {
    vec![
        event.id.to_string(),
        format!("{:.0}", event.time),
        event.severity.to_string(),
        event.kind.to_string(),
        event.message.clone(),
    ]
}
