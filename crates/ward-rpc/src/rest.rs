//! Request bodies that are heard to their end, whoever leaves off before, and whose end comes in time.
//!
//! A client may send a body some time after the head. Where the head alone is refused, the connection would be closed
//! under a client that is still sending, and it would not hear why.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep, timeout};

/// How much of what nobody wants is heard, and for how long.
const MOST: usize = 256 << 10;
const WITHIN: Duration = Duration::from_secs(2);

/// A request's body, in the hands of its handler and of whoever hears the rest.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<Timed>>);

struct Timed {
    body: Incoming,
    /// How long it may take, from when it is first waited for.
    within: Duration,
    /// Only of a body that was waited for.
    late: Option<Pin<Box<Sleep>>>,
}

/// A body came to no end in time.
#[derive(Debug, thiserror::Error)]
#[error("the request's body did not come in time")]
struct Late;

impl Shared {
    pub(crate) fn new(body: Incoming, within: Duration) -> Self {
        Self(Arc::new(Mutex::new(Timed { body, within, late: None })))
    }

    fn timed(&self) -> MutexGuard<'_, Timed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears what the handler left, as far as that is little.
    pub(crate) async fn hear_out(mut self) {
        let hear = async {
            let mut heard = 0;
            while heard < MOST
                && let Some(Ok(frame)) = poll_fn(|context| Pin::new(&mut self).poll_frame(context)).await
            {
                heard += frame.data_ref().map_or(0, Bytes::len);
            }
        };
        // Whoever takes longer finds the connection closed.
        let _ = timeout(WITHIN, hear).await;
    }
}

impl Body for Shared {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let timed = &mut *self.timed();
        if let Poll::Ready(frame) = Pin::new(&mut timed.body).poll_frame(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let within = timed.within;
        let late = timed.late.get_or_insert_with(|| Box::pin(sleep(within)));
        late.as_mut().poll(context).map(|()| Some(Err(Late.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.timed().body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.timed().body.size_hint()
    }
}
