"""whet: own a small model that does your job."""
