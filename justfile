# Everything that must hold, changing nothing.
check:
    .ci/run

# Writes what can be written by itself.
fix:
    cargo fmt --all
    cargo clippy --workspace --all-targets --fix --allow-dirty

# What protection costs, and how long a recovery takes. Wants a quiet machine.
bench:
    cargo bench --bench overhead
    cargo bench --bench nexmark
    cargo bench --bench recovery

# The word count under random schedules of faults.
chaos:
    cargo bench --bench chaos

# The long sweeps of kills, panics and view changes.
sweep:
    cargo test --release --workspace -- --ignored --nocapture
