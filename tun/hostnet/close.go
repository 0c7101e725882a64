package hostnet

import "errors"

// Close puts p in force for a later process to take over, and undoes nothing of
// what an earlier one has left: it is for a time when not all can be undone yet,
// as before file systems may be written to. Part of p in force with an error is
// left so.
func Close(stateDir string, p Plan) error {
	k, err := newKernel()
	if err != nil {
		return err
	}
	return closeWith(k, stateDir, p)
}

func closeWith(k kernel, stateDir string, p Plan) error {
	j, err := openJournal(stateDir)
	if err != nil {
		return err
	}
	a := &Applied{kernel: k, journal: j, plan: p}
	records, err := j.read()
	return errors.Join(err, a.carryOut(p, records, err != nil), j.close())
}
