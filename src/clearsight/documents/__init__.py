"""Every file that people write: jobs, deployments, endpoints, models, settings, data. Without torch."""
