"""Recording of sessions: tee, recorder, spool, upload, archive, playback."""
