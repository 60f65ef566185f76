//! Who may record which part of a root at a time: a host that records models while it scans takes the lanes of those models, what needs
//! the picture of a whole root takes the root.

use sqlx::PgConnection;

use crate::db::DbError;

/// Parts into which the paths of a root fall, so that a scan records over as many connections.
pub const LANES: usize = 2;

/// The lane of a path below its root: FNV-1a. Every host and every version has to say the same.
pub fn lane(rel_path: &str) -> usize {
    let hash = rel_path
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    // the lowest bit of FNV is that of the sum of the bytes: a number at the end alone would decide
    usize::try_from(hash >> 32).unwrap_or_default() % LANES
}

/// Nobody else records anything of this root until the transaction ends: two hosts that have the same library must not create a
/// model twice.
pub async fn lock_root(tx: &mut PgConnection, root: &str) -> Result<(), DbError> {
    sqlx::query("select pg_advisory_xact_lock(hashtextextended('scan/' || $1, 0))").bind(root).execute(tx).await?;
    Ok(())
}

/// Nobody else records anything of these lanes of this root until the transaction ends, nor takes the root.
pub(super) async fn lock(tx: &mut PgConnection, root: &str, lanes: &[usize]) -> Result<(), DbError> {
    sqlx::query("select pg_advisory_xact_lock_shared(hashtextextended('scan/' || $1, 0))")
        .bind(root)
        .execute(&mut *tx)
        .await?;
    // each on its own, in their order: so nobody waits for one who waits for him
    for lane in lanes {
        sqlx::query("select pg_advisory_xact_lock(hashtextextended('scan lane/' || $1 || '/' || $2, 0))")
            .bind(root)
            .bind(lane.to_string())
            .execute(&mut *tx)
            .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_numbered_fall_into_all_lanes_alike() {
        for name in ["lora", "style/a-", "sdxl/checkpoints/model_"] {
            let lanes: Vec<usize> = (0..1000).map(|number| lane(&format!("{name}{number:03}.safetensors"))).collect();
            for one in 0..LANES {
                let share = lanes.iter().filter(|lane| **lane == one).count() * LANES;
                assert!((900..1100).contains(&share), "{name}: {share}");
            }
        }
    }

    #[test]
    fn lanes_are_those_of_every_other_version() {
        assert_eq!(["", "a", "b", "loras/style.safetensors", "ä"].map(lane), [0, 0, 0, 0, 1]);
    }
}
