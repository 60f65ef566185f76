//! Execution providers beside the CPU's.

use ort::ep::{ArenaExtendStrategy, CUDA, ExecutionProviderDispatch, cuda::ConvAlgorithmSearch};

/// The CUDA provider of one device. A session that cannot have it fails: by default it would run on the CPU, silently.
pub(super) fn cuda(device: i32) -> ExecutionProviderDispatch {
    let provider = CUDA::default()
        .with_device_id(device)
        // activations must not take twice what they need beside resident weights
        .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested)
        // an exhaustive search runs every algorithm for each new size
        .with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic);
    provider.build().error_on_failure()
}
