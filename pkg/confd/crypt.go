package confd

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/template"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/kelseyhightower/memkv"
)

var errNoKeyring = errors.New("there is no key to read encrypted values with: name it in confd.toml, as secret_keyring")

// cryptFunctions are get, gets, getv and getvs for values that are encrypted: by OpenPGP, below that
// compressed, the whole in base64. A keyring is an armored OpenPGP file; "" is none.
func cryptFunctions(store *memkv.Store, keyring string) template.FuncMap {
	open := func(value string) (string, error) { return decrypt(value, keyring) }
	all := func(pattern string) (memkv.KVPairs, error) {
		pairs, err := store.GetAll(pattern)
		for i := range pairs {
			var wrong error
			if pairs[i].Value, wrong = open(pairs[i].Value); wrong != nil {
				return nil, fmt.Errorf("%s: %w", pairs[i].Key, wrong)
			}
		}
		return pairs, err
	}
	one := func(key string) (memkv.KVPair, error) {
		pair, err := store.Get(plainKey(key))
		if err != nil {
			return pair, err
		}
		if pair.Value, err = open(pair.Value); err != nil {
			return pair, fmt.Errorf("%s: %w", key, err)
		}
		return pair, nil
	}
	return template.FuncMap{
		"cget":  one,
		"cgetv": func(key string) (string, error) { pair, err := one(key); return pair.Value, err },
		"cgets": all,
		"cgetvs": func(pattern string) ([]string, error) { // in the order of the encrypted values, as in confd
			texts, err := store.GetAllValues(pattern)
			for i := range texts {
				var wrong error
				if texts[i], wrong = open(texts[i]); wrong != nil {
					return nil, wrong
				}
			}
			return texts, err
		},
	}
}

func decrypt(value, keyring string) (string, error) {
	if keyring == "" {
		return "", errNoKeyring
	}
	keys, err := openpgp.ReadArmoredKeyRing(strings.NewReader(keyring))
	if err != nil {
		return "", fmt.Errorf("secret_keyring: %w", err)
	}
	encrypted, err := base64.StdEncoding.DecodeString(strings.TrimSpace(value))
	if err != nil {
		return "", fmt.Errorf("the value is not encrypted: %w", err)
	}
	message, err := openpgp.ReadMessage(bytes.NewReader(encrypted), keys, nil, nil)
	if err != nil {
		return "", fmt.Errorf("decrypt: %w", err)
	}
	plain, err := gzip.NewReader(message.UnverifiedBody)
	if err != nil {
		return "", fmt.Errorf("decrypt: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(plain, most))
	if err != nil {
		return "", fmt.Errorf("decrypt: %w", err)
	}
	return string(text), nil
}
