"""Azure's online endpoint and deployment files."""
