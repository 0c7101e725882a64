package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"
)

// Host is what a Node answers beside its traffic, if it can: what goes past the
// tunnel, and the LAN behind this machine. All but Host return when the change is
// in force.
type Host interface {
	Host() HostStatus
	Plan() (string, error) // what is in force on this machine, in words
	SetLAN(ctx context.Context, on bool) error
	// Exclude puts a process, and what it starts, among those that go past the
	// tunnel, or with portal among those that may see the login page.
	Exclude(ctx context.Context, p Process, portal bool) (Joined, error)
	OpenPortal(ctx context.Context, d time.Duration) (PortalStatus, error) // 0 closes
	SetRouter(ctx context.Context, lan string) error                       // "" ends it
	SetDevice(ctx context.Context, d Device) error
}

// HostStatus is the answer to GET /v1/host.
type HostStatus struct {
	Schema   int          `json:"schema"`
	LAN      bool         `json:"lan"`      // programs may reach private networks that this machine is in
	Networks []string     `json:"networks"` // those, when LAN
	Split    SplitStatus  `json:"split"`
	Portal   PortalStatus `json:"portal"`
	Router   RouterStatus `json:"router"`
}

// PlanText is the answer to GET /v1/plan.
type PlanText struct {
	Schema int    `json:"schema"`
	Plan   string `json:"plan"` // one change a line, as an administrator would type it
}

// SplitStatus says what goes past the tunnel.
type SplitStatus struct {
	Mode     string   `json:"mode"` // "exclude": what is listed goes past the tunnel; "only": nothing else goes into it
	Users    []string `json:"users"`
	Networks []string `json:"networks"`
	Cgroups  []string `json:"cgroups"` // that of `cuttle exclude` included while it is in use
}

// PortalStatus says whether programs of the portal's group may see a login page.
type PortalStatus struct {
	Schema    int      `json:"schema"`
	Until     int64    `json:"until"`     // Unix seconds, 0 when closed
	Resolvers []string `json:"resolvers"` // of the local network
}

// RouterStatus is the LAN behind this machine.
type RouterStatus struct {
	LAN       string   `json:"lan"`       // interface, "" when this is no router
	Addresses []string `json:"addresses"` // of this machine there, with the network's length
	Devices   []Device `json:"devices"`   // those with a lease or a policy
}

// Device is one device of the LAN.
type Device struct {
	MAC     string   `json:"mac"`
	Name    string   `json:"name"`    // what it calls itself, or the operator
	Address string   `json:"address"` // its lease, "" when it has none
	Policy  Policy   `json:"policy"`
	Exit    []string `json:"exit"`    // wanted exits, as client.exit; empty: this machine's
	Problem string   `json:"problem"` // why what it sends is refused at present, "" when it is not; told only
}

// Policy is what is done with a device's traffic.
type Policy string

// The policies.
const (
	PolicyTunnel  Policy = "tunnel"
	PolicyDirect  Policy = "direct"  // past the tunnel, but for DNS
	PolicyBlocked Policy = "blocked" // nothing
)

// Joined is the answer to POST /v1/exclude.
type Joined struct {
	Schema int    `json:"schema"`
	Joined bool   `json:"joined"` // false: the daemon lacks the rights; who has them writes the process's number into File
	File   string `json:"file"`
}

// wish is the body of the calls below; which members count depends on the call.
type wish struct {
	On      bool   `json:"on"`
	Portal  bool   `json:"portal"`
	Seconds int    `json:"seconds"`
	LAN     string `json:"lan"`
	Device  Device `json:"device"`
}

// maxPortal bounds how long a portal stays open.
const maxPortal = time.Hour

// serveHost adds the calls of a node that is a Host.
func (s *Server) serveHost(mux *http.ServeMux, h Host) {
	mux.HandleFunc("GET /v1/host", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, stampHost(h.Host())) })
	mux.HandleFunc("GET /v1/plan", func(w http.ResponseWriter, _ *http.Request) {
		text, err := h.Plan()
		if err != nil {
			refuse(w, err)
			return
		}
		reply(w, http.StatusOK, PlanText{Schema, text})
	})
	call := func(name string, f func(context.Context, wish) (any, error)) {
		mux.HandleFunc("POST /v1/"+name, func(w http.ResponseWriter, r *http.Request) {
			var body wish
			d := json.NewDecoder(r.Body)
			d.DisallowUnknownFields()
			if err := d.Decode(&body); err != nil {
				refuse(w, &Error{Status: http.StatusBadRequest, Text: "this call takes a body that was not understood", Hint: "are cuttle and cuttled of the same version?"})
				return
			}
			ctx, cancel := context.WithTimeout(r.Context(), verbTimeout)
			defer cancel()
			answer, err := f(ctx, body)
			if err != nil {
				refuse(w, err)
				return
			}
			reply(w, http.StatusOK, answer)
		})
	}
	done := func(err error) (any, error) { return Done{Schema, s.node.Status().State}, err }
	call("lan", func(ctx context.Context, w wish) (any, error) { return done(h.SetLAN(ctx, w.On)) })
	call("router", func(ctx context.Context, w wish) (any, error) { return done(h.SetRouter(ctx, w.LAN)) })
	call("device", func(ctx context.Context, w wish) (any, error) { return done(h.SetDevice(ctx, w.Device)) })
	call("portal", func(ctx context.Context, w wish) (any, error) {
		if w.Seconds < 0 || time.Duration(w.Seconds)*time.Second > maxPortal {
			return nil, &Error{Status: http.StatusBadRequest, Text: "a portal is open for an hour at most"}
		}
		p, err := h.OpenPortal(ctx, time.Duration(w.Seconds)*time.Second)
		p.Schema, p.Resolvers = Schema, orEmpty(p.Resolvers)
		return p, err
	})
	call("exclude", func(ctx context.Context, w wish) (any, error) {
		// Only itself: else a member of the group could move anybody.
		who, _ := ctx.Value(peerKey{}).(caller)
		if who.peer.process.PID <= 0 {
			return nil, &Error{Text: "the kernel does not tell which process asks"}
		}
		j, err := h.Exclude(ctx, who.peer.process, w.Portal)
		j.Schema = Schema
		return j, err
	})
}

func stampHost(h HostStatus) HostStatus {
	h.Schema, h.Portal.Schema = Schema, Schema
	h.Networks, h.Portal.Resolvers = orEmpty(h.Networks), orEmpty(h.Portal.Resolvers)
	h.Split.Users, h.Split.Networks, h.Split.Cgroups = orEmpty(h.Split.Users), orEmpty(h.Split.Networks), orEmpty(h.Split.Cgroups)
	h.Router.Addresses, h.Router.Devices = orEmpty(h.Router.Addresses), orEmpty(h.Router.Devices)
	for i := range h.Router.Devices {
		h.Router.Devices[i].Exit = orEmpty(h.Router.Devices[i].Exit)
	}
	return h
}

// Host asks what goes past the tunnel, and about the LAN.
func (c *Client) Host(ctx context.Context) (HostStatus, error) {
	return call[HostStatus](ctx, c, http.MethodGet, "host")
}

// Plan asks what is in force on this machine.
func (c *Client) Plan(ctx context.Context) (PlanText, error) {
	return call[PlanText](ctx, c, http.MethodGet, "plan")
}

// SetLAN allows or forbids access to private networks that this machine is in.
func (c *Client) SetLAN(ctx context.Context, on bool) (Done, error) {
	return tell[Done](ctx, c, "lan", wish{On: on})
}

// Exclude puts this process, and what it starts, past the tunnel.
func (c *Client) Exclude(ctx context.Context, portal bool) (Joined, error) {
	return tell[Joined](ctx, c, "exclude", wish{Portal: portal})
}

// OpenPortal opens the portal for a time, or closes it.
func (c *Client) OpenPortal(ctx context.Context, d time.Duration) (PortalStatus, error) {
	return tell[PortalStatus](ctx, c, "portal", wish{Seconds: int(d / time.Second)})
}

// SetRouter makes this machine the router of an interface's network; "" ends it.
func (c *Client) SetRouter(ctx context.Context, lan string) (Done, error) {
	return tell[Done](ctx, c, "router", wish{LAN: lan})
}

// SetDevice says what is done with a device of the LAN.
func (c *Client) SetDevice(ctx context.Context, d Device) (Done, error) {
	return tell[Done](ctx, c, "device", wish{Device: d})
}

// tell is call with a body.
func tell[T any](ctx context.Context, c *Client, name string, w wish) (T, error) {
	b, err := json.Marshal(w)
	if err != nil {
		var none T
		return none, errors.New(name + ": the call does not marshal")
	}
	return callWith[T](ctx, c, http.MethodPost, name, io.NopCloser(bytes.NewReader(b)))
}
