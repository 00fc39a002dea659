"""Every file that people write: jobs, deployments, endpoints, models, settings, data. No torch here."""
