"""An HTTP server: images and searches for many clients, a page to watch them, a judge. Needs `milr[serve]`."""
