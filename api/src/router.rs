//! The whole surface on one screen.

use axum::{Router, middleware::from_fn_with_state};
use tower::{Layer, util::MapRequestLayer};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    context::{one_device_form, panicked, surround},
    routes::{
        artifacts, benchmarks, cache, components, convert, devices, engine, events, evictions, hosts, jobs, loras,
        memory, meta, metadata, models, pipeline_changes, pipelines, search, status, tensors, uploads, validations,
        vram,
    },
    state::AppState,
};

/// All routes with their descriptions.
pub(crate) fn documented() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        // catalogue
        .routes(routes!(search::list_models))
        .routes(routes!(search::search_models))
        .routes(routes!(models::get_one_model, models::override_model, models::forget_model))
        .routes(routes!(models::reidentify_model))
        .routes(routes!(tensors::list_tensors))
        .routes(routes!(metadata::get_metadata, metadata::put_metadata, metadata::patch_metadata))
        .routes(routes!(metadata::metadata_history))
        .routes(routes!(metadata::write_metadata))
        .routes(routes!(convert::convert_model))
        .routes(routes!(models::load_model))
        .routes(routes!(models::unload_model))
        .routes(routes!(validations::validate_model))
        .routes(routes!(validations::list_validations))
        .routes(routes!(validations::get_one_validation))
        .routes(routes!(validations::list_statistics))
        .routes(routes!(benchmarks::benchmark_model))
        .routes(routes!(benchmarks::benchmark_pipeline))
        .routes(routes!(benchmarks::list_benchmarks))
        .routes(routes!(benchmarks::compare_benchmarks))
        .routes(routes!(benchmarks::get_one_benchmark))
        .routes(routes!(benchmarks::plot_benchmark))
        .routes(routes!(components::list_components))
        .routes(routes!(components::get_one_component))
        // status
        .routes(routes!(status::farm_status))
        .routes(routes!(status::models_status))
        .routes(routes!(status::model_status))
        .routes(routes!(status::device_models))
        // the farm
        .routes(routes!(devices::list_devices))
        .routes(routes!(devices::get_one_device))
        .routes(routes!(hosts::list_hosts))
        .routes(routes!(hosts::get_one_host))
        .routes(routes!(hosts::drain_host))
        .routes(routes!(hosts::undrain_host))
        .routes(routes!(memory::host_memory))
        .routes(routes!(memory::optimize_host))
        .routes(routes!(memory::optimize_device))
        // RAM
        .routes(routes!(cache::get_cache, cache::add_to_cache, cache::clear_cache))
        .routes(routes!(cache::get_cached, cache::remove_cached))
        .routes(routes!(cache::protect_cached))
        .routes(routes!(cache::unprotect_cached))
        .routes(routes!(evictions::list_evictions))
        // VRAM
        .routes(routes!(vram::load_everywhere))
        .routes(routes!(vram::unload_everywhere))
        .routes(routes!(vram::load_on_device))
        .routes(routes!(vram::unload_from_device))
        .routes(routes!(vram::remove_from_device))
        .routes(routes!(vram::remove_everywhere))
        // running models
        .routes(routes!(engine::generate))
        .routes(routes!(engine::lora_check))
        .routes(routes!(loras::list_loras))
        .routes(routes!(loras::get_lora))
        .routes(routes!(loras::blend_loras))
        .routes(routes!(engine::encode_text))
        .routes(routes!(engine::tokenize))
        .routes(routes!(engine::vae_decode))
        .routes(routes!(engine::vae_encode))
        .routes(routes!(engine::unet_step))
        .routes(routes!(uploads::create_upload))
        .routes(routes!(uploads::get_one_upload, uploads::delete_upload))
        // pipelines
        .routes(routes!(pipelines::list_pipelines))
        .routes(routes!(pipelines::get_one_pipeline, pipeline_changes::put_pipeline, pipeline_changes::delete_pipeline))
        .routes(routes!(pipeline_changes::patch_loras))
        .routes(routes!(pipelines::apply_pipeline))
        .routes(routes!(pipelines::restore_pipeline))
        .routes(routes!(pipelines::diff_pipeline))
        .routes(routes!(pipelines::pipeline_history))
        // jobs
        .routes(routes!(jobs::list_jobs, jobs::submit_job))
        .routes(routes!(jobs::get_one_job))
        .routes(routes!(jobs::wait_job))
        .routes(routes!(jobs::cancel_job))
        .routes(routes!(jobs::retry_job))
        .routes(routes!(events::job_events))
        .routes(routes!(artifacts::list_artifacts))
        .routes(routes!(artifacts::get_artifact))
        .routes(routes!(events::all_events))
        // the API itself
        .routes(routes!(meta::livez))
        .routes(routes!(meta::readyz))
        .routes(routes!(meta::openapi_json))
}

/// The routes with everything around them, ready to be served.
pub(crate) fn service(state: AppState) -> Router {
    let (router, _) = documented().split_for_parts();
    let routed = router
        .fallback(meta::nowhere)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(state.clone(), surround))
        .with_state(state);
    // device forms are made one before the path is matched, so outside the router
    Router::new().fallback_service(MapRequestLayer::new(one_device_form).layer(routed))
}
