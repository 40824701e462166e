//! The library inside one process, which holds one interpreter: tests run one after the other, and the process ends by
//! the host's own `exit`. Arguments: a part of a test's name, as with the default harness.

#[path = "../support/mod.rs"]
mod support;

mod engine;
mod kinds;
mod life;
mod requests;
mod serving;
mod sharing;

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;

use hwledger_omlx_host::{EngineConfig, Error, Host};

type Test = (&'static str, fn() -> Pin<Box<dyn Future<Output = ()>>>);

macro_rules! tests {
    ($($module:ident :: $name:ident),* $(,)?) => {
        &[$((concat!(stringify!($module), "::", stringify!($name)), || Box::pin($module::$name()))),*]
    };
}

const TESTS: &[Test] = tests![
    sharing::one_copy_of_the_native_module,
    sharing::one_interpreter_a_process,
    sharing::every_exception_has_its_variant,
    engine::events_tell_the_whole_generation,
    engine::requests_of_one_engine_run_together,
    engine::dropping_a_stream_cancels_its_request,
    engine::a_cancelled_stream_ends_with_what_there_is,
    engine::bad_requests_leave_the_engine_well,
    engine::bad_models_and_forks_are_told_apart,
    engine::the_cache_tells_of_itself,
    engine::memory_is_told_layer_by_layer,
    engine::models_come_and_go,
    requests::a_deadline_ends_a_request_with_what_there_is,
    requests::memory_comes_between_the_tokens,
    requests::a_slow_reader_gets_it_all,
    requests::models_that_fail_to_load_disturb_no_stream,
    requests::a_benchmark_is_the_same_for_the_same_seed,
    requests::the_cache_is_flushed_pinned_and_purged,
    requests::requests_are_recorded_where_it_is_said,
    requests::models_of_every_kind_answer_in_one_piece,
    kinds::a_tool_is_called_and_its_result_is_read,
    kinds::images_sound_and_speech,
    life::a_policy_counts_for_the_requests_that_begin_then,
    life::an_engine_leaves_no_thread_behind,
    serving::http_and_rust_share_one_engine,
    engine::two_engines_and_their_end,
];

/// The host of this process.
fn host() -> Host {
    Host::builder().venv(support::venv().path()).start().expect("a host")
}

/// Settings of an engine on the tests' model.
fn config() -> EngineConfig {
    EngineConfig::new(support::model().to_str().expect("UTF-8"))
}

fn main() {
    let wanted: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if std::env::args().any(|argument| argument == "--list") {
        for (name, _) in TESTS {
            println!("{name}: test");
        }
        return;
    }
    #[expect(unsafe_code, reason = "the package reads its base folder from the environment")]
    // SAFETY: no other thread runs yet.
    unsafe {
        std::env::set_var("HWLEDGER_OMLX_HOME", support::home());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut failed = 0;
    for (name, test) in
        TESTS.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|part| name.contains(part)))
    {
        let begun = std::time::Instant::now();
        // The panic hook prints what failed.
        let passed = std::panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on(test()))).is_ok();
        println!("test {name} ... {} ({:.2} s)", if passed { "ok" } else { "FAILED" }, begun.elapsed().as_secs_f64());
        failed += i32::from(!passed);
    }
    let closed: Result<(), Error> = runtime.block_on(host().shutdown());
    println!("{failed} failed; shutdown: {closed:?}");
    hwledger_omlx_host::exit(i32::from(failed > 0 || closed.is_err()));
}
