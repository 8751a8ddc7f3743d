"""The MLflow store of a sweep: `ledger` is its front door."""
