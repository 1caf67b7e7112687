"""The workshop's labs, one module each; `labkit` holds the plumbing that they share."""
