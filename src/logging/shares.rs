//! Where the time of an operation goes, for the log: who is waited for says so, and who began the operation adds it up.

use std::cell::Cell;
use std::time::{Duration, Instant};

tokio::task_local! {
    static SHARES: Cell<Shares>;
}

/// Whom an operation waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// A call of libvirt.
    Libvirt,
    /// qemu-img.
    Images,
}

/// How long an operation has waited for whom. Waits that overlap count twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shares {
    /// [`Share::Libvirt`].
    pub libvirt: Duration,
    /// [`Share::Images`].
    pub images: Duration,
}

/// Does `work`, and tells whom it waited for.
pub async fn shared_out<T>(work: impl Future<Output = T>) -> (T, Shares) {
    let work = async {
        let done = work.await;
        (done, SHARES.with(Cell::get))
    };
    SHARES.scope(Cell::default(), work).await
}

/// Does `work`, which is to be waited for; its time counts where somebody adds it up.
pub async fn share<T>(whose: Share, work: impl Future<Output = T>) -> T {
    let begun = Instant::now();
    let done = work.await;
    let _ = SHARES.try_with(|cell| {
        let mut shares = cell.get();
        let share = match whose {
            Share::Libvirt => &mut shares.libvirt,
            Share::Images => &mut shares.images,
        };
        *share += begun.elapsed();
        cell.set(shares);
    });
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_wait_is_somebodys() {
        let wait = || tokio::time::sleep(Duration::from_millis(5));
        share(Share::Images, wait()).await;
        let (done, shares) = shared_out(async {
            share(Share::Libvirt, wait()).await;
            share(Share::Libvirt, async { 7 }).await
        })
        .await;
        assert_eq!(done, 7);
        assert!(shares.libvirt >= Duration::from_millis(5) && shares.images.is_zero(), "{shares:?}");
    }
}
