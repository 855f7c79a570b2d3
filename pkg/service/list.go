package service

import "slices"

// list is a sorted list of values under keys, made for few changes between two looks at a large
// whole: what was handed out is never touched, and a change costs a search and a copy of the
// pointers. The zero value is empty.
type list[T any] struct {
	keys    []string
	values  []T
	pending map[string]*T // by key, nil for what goes
}

// set puts value under key, in place of what is there.
func (l *list[T]) set(key string, value T) {
	if l.pending == nil {
		l.pending = map[string]*T{}
	}
	l.pending[key] = &value
}

// remove takes out what is under key.
func (l *list[T]) remove(key string) {
	if l.pending == nil {
		l.pending = map[string]*T{}
	}
	l.pending[key] = nil
}

// get returns what was under key when sorted was last called.
func (l *list[T]) get(key string) (value T, ok bool) {
	at, ok := slices.BinarySearch(l.keys, key)
	if ok {
		value = l.values[at]
	}
	return value, ok
}

// some returns any of the values, if there is one, those that were set since included.
func (l *list[T]) some() (value T, ok bool) {
	for _, value := range l.pending {
		if value != nil {
			return *value, true
		}
	}
	if len(l.values) > 0 {
		return l.values[0], true
	}
	return value, false
}

// sorted returns the values in the order of their keys, nil if there are none. The slice belongs to
// the caller as much as to the list: neither may change it. A nil list is empty.
func (l *list[T]) sorted() []T {
	if l == nil {
		return nil
	}
	if len(l.pending) == 0 {
		return l.values
	}
	keys := make([]string, 0, len(l.keys)+len(l.pending))
	values := make([]T, 0, len(l.keys)+len(l.pending))
	from := 0
	for _, key := range sortedKeys(l.pending) {
		to, found := slices.BinarySearch(l.keys[from:], key)
		to += from
		keys, values = append(keys, l.keys[from:to]...), append(values, l.values[from:to]...)
		if value := l.pending[key]; value != nil {
			keys, values = append(keys, key), append(values, *value)
		}
		from = to
		if found {
			from++
		}
	}
	l.keys = append(keys, l.keys[from:]...)
	l.values = append(values, l.values[from:]...)
	l.pending = nil
	if len(l.values) == 0 {
		l.values = nil
	}
	return l.values
}
