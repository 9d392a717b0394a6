"""What IP bytes say: endpoints, datagrams, checksums. Pure: bytes in, values out."""
