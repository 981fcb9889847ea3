"""Questions over passages: read afresh, from cached key/value state, and without any."""
