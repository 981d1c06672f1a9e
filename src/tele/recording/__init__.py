"""Sessions are recorded: tee, recorder, spool, upload, archive, playback."""
