"""Jobs of any kind: the workspace, run folders, packages, the registry, and how a job is run, watched and stopped."""
