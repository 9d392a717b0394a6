"""Stored packets: capture files in, whole IP packets out, and a capture file written.

From the bottom up: `source` (bytes of a file, of standard input, of a gzip stream), `pcap` and `pcapng`
(frames), `link` (where the IP packet begins in a frame), `ip` (its length and ports), `reassembly`
(fragments), `packets` (all of that in one stream), `writer`. Nothing here knows SIP or the engine.

The containers are read here and not with dpkt, whose readers hand on a cut file as if it were whole, do not
say how long a frame was on the wire, and know one interface and one time resolution in a pcapng file. dpkt
writes our captures and names link types.
"""
