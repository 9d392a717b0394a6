"""The decision: a message and a side in, forward | reply | drop out, with the edits."""
