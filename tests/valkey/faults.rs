//! What goes wrong, and what becomes of the requests under way.
