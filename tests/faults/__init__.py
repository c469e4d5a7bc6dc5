"""The fault campaign: damage done for real, one item per file, with one oracle (`common.check`)."""
