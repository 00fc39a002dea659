"""Azure's batch endpoint and deployment files, and what starts a batch job."""
