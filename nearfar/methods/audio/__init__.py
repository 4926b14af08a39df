"""Methods of sound and speech."""
