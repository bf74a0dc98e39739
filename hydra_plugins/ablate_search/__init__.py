"""Config groups beyond conf/: those of the user's own folder, and registered parts that have no YAML."""
