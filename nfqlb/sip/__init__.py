"""What SIP bytes say: lossless views of a message, its lists and its URIs, edits by spans, and local replies. Pure."""
