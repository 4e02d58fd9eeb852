//! Takes requests that wait in a lane behind a slow request back, for other workers.

use std::rc::Rc;
use std::time::Instant;

use crate::gateway::Gateway;
use crate::gateway::pool::dispatch;
use crate::gateway::pool::lookahead;
use crate::proto::lookahead::PATIENCE;

/// Takes requests back from workers whose request runs for longer than others wait for, while the gateway runs.
///
/// One task and one timer for all lanes: while requests wait in lanes, it looks every [`PATIENCE`].
pub(crate) async fn keep(gateway: Rc<Gateway>) {
    loop {
        gateway.looked_ahead.notified().await;
        loop {
            tokio::time::sleep(PATIENCE).await;
            let mut workers = gateway.lanes.polled();
            workers.retain(|worker| worker.ahead() > 0);
            if workers.is_empty() {
                break;
            }
            let now = Instant::now();
            workers.retain(|worker| !lookahead::is_prompt(worker, now));
            workers.iter().for_each(|worker| lookahead::take_back(&gateway, worker));
            dispatch::dispatch_again(&gateway);
        }
    }
}
