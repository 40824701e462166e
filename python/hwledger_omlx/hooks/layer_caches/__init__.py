"""Layer caches of our own: with head-room, and at any number of bits. They know no scheduler, no store, no policy."""
