package hostnet

// routeEvents reports nothing on this system.
func routeEvents() (reported <-chan struct{}, stop func()) { return nil, func() {} }
