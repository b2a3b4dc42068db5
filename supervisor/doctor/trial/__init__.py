"""What doctor tries in processes of its own: by the guard's code, under the guard's interpreter."""
