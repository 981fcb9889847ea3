"""What requests and answers look like: the bodies of the HTTP interface."""
