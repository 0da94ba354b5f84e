"""The networks that G4G is assembled from."""
